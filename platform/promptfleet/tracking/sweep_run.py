"""Sweep as an MLflow run with its trials nested in it."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from promptfleet.config import FederationConfig, flatten
from promptfleet.tracking.descriptions import sweep_note
from promptfleet.tracking.federation_run import FederationRun, end_run, log_origin
from promptfleet.tracking.lasting_run import LastingParent
from promptfleet.tracking.provenance import provenance
from promptfleet.tracking.run_names import trial_name
from promptfleet.tracking.store import KIND_TAG, TrackingStore
from promptfleet.tracking.tracked_run import TrackedRun
from promptfleet.tracking.views import trials_view, view_name
from promptfleet.trial_records import Importances, ParamValue, TrialRecord, best_trial, count_states, tied_trials
from promptfleet.yaml_files import dump_yaml

LEAVE_OUT = ("standard_error", "started_s", "ended_s")  # of a row where it is not known
_BEST_VAL, _BEST_TEST, _ZERO_SHOT = "best/val_accuracy", "best/test_accuracy", "zero_shot/test_accuracy"


class SweepRun:
    """Parent run of a sweep, new or continued. Made by ``start``."""

    def __init__(self, store: TrackingStore, begin: Callable[[], TrackedRun], key: str, search: Mapping[str, Any]):
        self._lasting = LastingParent(store, begin)
        self._store = store
        self._key = key
        self._space: Mapping[str, Mapping[str, Any]] = search.get("space", {})
        self._is_grid = search.get("sampler") == "grid"

    @property
    def run(self) -> TrackedRun:
        return self._lasting.now

    @property
    def id(self) -> str:
        return self.run.id

    @property
    def view(self) -> str:
        """Name of the view that shows its trials."""
        return view_name(self._key)

    @classmethod
    def start(
        cls,
        store: TrackingStore,
        config: FederationConfig,
        *,
        key: str,
        name: str,
        search: Mapping[str, Any] | None = None,
        parent: Callable[[], str] | None = None,
    ) -> "SweepRun":
        """Start the sweep with this key, or continue it if there is one.

        config is what the trials share; search is the resolved search file (plain values): sampler, space, ...;
        parent gives the id of the run this one is nested in.
        """

        def begin() -> TrackedRun:
            run = store.find_or_create_run(key, f"sweep {name}", parent=parent and parent(), tags={KIND_TAG: "sweep"})
            log_origin(run, config, provenance())
            store.save_view(trials_view(view_name(key), run.id, list((search or {}).get("space", {}))))
            if search is not None:
                run.log_text(dump_yaml(search), "search.yaml")
                if run.is_new:  # a resumed sweep may ask for more trials; search.yaml then has the newest
                    run.log_params(flatten(search))
            return run

        return cls(store, begin, key, search or {})

    def child(self, trial_number: int, params: Mapping[str, ParamValue], config: FederationConfig) -> FederationRun:
        """Start or continue the nested run of one trial; config is the trial's own, with ``params`` set."""
        return FederationRun.start(
            self._store,
            config,
            key=self._child_key(trial_number),
            name=trial_name(trial_number, params),
            parent=self._lasting.living_id,
            tags={"trial": str(trial_number), KIND_TAG: "trial"},
        )

    def finish(
        self,
        trials: Sequence[TrialRecord],
        importances: Callable[[], Importances | None] = lambda: None,
        *,
        status: Literal["FINISHED", "KILLED", "FAILED"] = "FINISHED",
        folder: Path | None = None,
        **about: Any,
    ) -> list[str]:
        """Write table, best trial, figures and description, and end the run: KILLED if the sweep was interrupted.

        A resumed sweep replaces the files of an interrupted one. importances gives the shares of the objective's
        variance that each hyperparameter explains. Figures are also written to ``folder``; ``about`` are further
        arguments of ``sweep_figures``. Trials that are still RUNNING in MLflow, because the process that ran them died,
        are set to KILLED. Figures come last, when the run has ended; returns their names.
        """
        self._lasting.renew()
        self.run.log_table([trial_row(trial) for trial in trials], "trials.json")
        accuracies = self._log_best(trials)
        self.run.describe(self._note(trials, accuracies, figures=()))
        for child in self._store.running_children(self.id):
            end_run(child, "KILLED", "interrupted")
        end_run(self.run, status, {"FINISHED": "complete", "KILLED": "interrupted", "FAILED": "failed"}[status])
        from promptfleet.figures.all_of_sweep import sweep_figures

        look = {"space": self._space, "is_grid": self._is_grid, "zero_shot": accuracies[_ZERO_SHOT]}
        figures = self.run.log_figures(sweep_figures(trials, importances, **look, **about), folder)
        self.run.describe(self._note(trials, accuracies, figures))
        return figures

    def _child_key(self, trial_number: int) -> str:
        return f"{self._key}/trial/{trial_number}"

    def _log_best(self, trials: Sequence[TrialRecord]) -> dict[str, float | None]:
        """Return the best trial's accuracies, and zero-shot's for the same clients, by their names of metrics."""
        ended = {state: count for state, count in count_states(trials).items() if state != "running"}
        accuracies: dict[str, float | None] = dict.fromkeys((_BEST_VAL, _BEST_TEST, _ZERO_SHOT))
        best = best_trial(trials)
        if best is not None:
            child = self._store.find_run(self._child_key(best.number))
            accuracies = {
                _BEST_VAL: best.value,
                _BEST_TEST: best.test_accuracy,
                _ZERO_SHOT: child.metrics.get(_ZERO_SHOT) if child else None,
            }
            self.run.set_tags({"best_trial": str(best.number), "best_params": json.dumps(best.params)})
        metrics = {**accuracies, **{f"trials/{state}": count for state, count in ended.items()}}
        self.run.log_final_metrics(metrics, step=0)  # a bar, not a line of one dot
        return accuracies

    def _note(
        self, trials: Sequence[TrialRecord], accuracies: Mapping[str, float | None], figures: Collection[str]
    ) -> str:
        best = best_trial(trials)
        return sweep_note(
            space=self._space,
            counts=count_states(trials),
            best=trial_name(best.number, best.params) if best else None,
            ties=tied_trials(trials, best),
            val_accuracy=accuracies[_BEST_VAL],
            test_accuracy=accuracies[_BEST_TEST],
            zero_shot=accuracies[_ZERO_SHOT],
            figures=figures,
        )


def trial_row(trial: TrialRecord) -> dict[str, Any]:
    """Return one trial's row of ``trials.json``: a hyperparameter with the name of another column is ``params.*``."""
    others = asdict(trial)
    params = others.pop("params")
    if trial.honest_test_accuracy is None:
        del others["honest_test_accuracy"]
    if trial.feasible:
        del others["feasible"]
    if not trial.values:
        del others["values"]
    others = {name: value for name, value in others.items() if value is not None or name not in LEAVE_OUT}
    first = {name: others.pop(name) for name in ("number", "state", "value")}
    taken = {*first, *others}
    return first | {f"params.{name}" if name in taken else name: value for name, value in params.items()} | others
