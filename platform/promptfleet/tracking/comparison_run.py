"""Comparison as an MLflow run, with the searches that tune its methods and its federations nested in it."""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from promptfleet.config import FederationConfig, flatten
from promptfleet.tracking.federation_run import REASON_TAG, FederationRun, end_run, log_origin
from promptfleet.tracking.lasting_run import LastingParent
from promptfleet.tracking.provenance import provenance
from promptfleet.tracking.store import KIND_TAG, TrackingStore
from promptfleet.tracking.tracked_run import TrackedRun
from promptfleet.tracking.views import comparison_view, view_name
from promptfleet.yaml_files import dump_yaml

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class ComparisonRun:
    """Parent run of a comparison, new or continued. Made by ``start``."""

    def __init__(self, store: TrackingStore, begin: Callable[[], TrackedRun], key: str):
        self._lasting, self.key = LastingParent(store, begin), key
        self._store = store

    @property
    def view(self) -> str:
        """Name of the view that shows its federations."""
        return view_name(self.key)

    @property
    def run(self) -> TrackedRun:
        return self._lasting.now

    @property
    def id(self) -> str:
        return self.run.id

    def living_id(self) -> str:
        """Return the id of the run, which is started again if it was deleted in MLflow."""
        return self._lasting.living_id()

    @classmethod
    def start(
        cls, store: TrackingStore, config: FederationConfig, *, key: str, name: str, values: Mapping[str, Any]
    ) -> "ComparisonRun":
        """Start the comparison with this key, or continue it if there is one.

        config is one of its federations; values are those that it is read back from: seeds, methods, ...
        """

        def begin() -> TrackedRun:
            run = store.find_or_create_run(key, f"comparison {name}", tags={KIND_TAG: "comparison"})
            store.save_view(comparison_view(view_name(key), run.id))
            log_origin(run, config, provenance())
            run.log_text(dump_yaml(values), "comparison.yaml")
            run.set_tags({"method": "", "seed": ""})  # a comparison has several of them, and may get more
            run.set_tags({"methods": ",".join(values["methods"]), "seeds": ",".join(map(str, values["seeds"]))})
            shared = flatten(values["federation"])
            run.log_params({key: value for key, value in shared.items() if key != "storage.path"})  # it may move
            return run

        return cls(store, begin, key)

    def child(self, trial_number: int, params: Mapping[str, Any], config: FederationConfig) -> FederationRun:
        """Start or continue the nested run of one method and seed."""
        return FederationRun.start(
            self._store,
            config,
            key=f"{self.key}/trial/{trial_number}",
            name=f"{params['method']} seed {params['seed']}",
            parent=self.living_id,
            tags={"trial": str(trial_number), KIND_TAG: "trial"},
        )

    def finish(
        self,
        files: Mapping[str, str],
        figures: "Iterable[tuple[str, Callable[[], Figure | None]]]",
        metrics: Mapping[str, float],
        *,
        note: str,
    ) -> None:
        """Write files by name, figures and metrics, describe the run in Markdown, and end it."""
        self._lasting.renew()
        for name, text in files.items():
            self.run.log_text(text, name)
        self.run.log_figures(figures)
        self.run.log_final_metrics(metrics, step=0)
        self.run.describe(note)
        self._end_children()
        end_run(self.run, "FINISHED", "complete")

    def fail(self, reason: str) -> None:
        self._lasting.renew()
        self.run.set_tags({REASON_TAG: reason})
        self._end_children()
        end_run(self.run, "FAILED", "failed")

    def interrupt(self) -> None:
        """Leave the run for a later ``start`` with the same key to continue."""
        self._lasting.renew()
        self._end_children()
        end_run(self.run, "KILLED", "interrupted")

    def _end_children(self) -> None:
        for child in self._store.running_children(self.id):
            end_run(child, "KILLED", "interrupted")
