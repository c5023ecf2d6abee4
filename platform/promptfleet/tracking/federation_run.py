"""One federation as one MLflow run: parameters, a batch of metrics per round, and its whole result at the end."""

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from promptfleet.config import FaultsConfig, FederationConfig, flatten, result_values
from promptfleet.data.partition_counts import PartitionCounts
from promptfleet.federation.reports import ClientReport, Event, FederationResult, FederationSummary, RoundReport
from promptfleet.methods.protocol import State
from promptfleet.tracking.descriptions import NOTE_TAG, failed_note, federation_note, stopped_note
from promptfleet.tracking.lasting_run import LastingRun
from promptfleet.tracking.provenance import provenance, provenance_tags
from promptfleet.tracking.store import TrackingStore
from promptfleet.tracking.tracked_run import Status, TrackedRun
from promptfleet.tracking.views import OBJECTIVE
from promptfleet.yaml_files import dump_yaml

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from promptfleet.figures.pairs import Pairs

STATE_TAG = "promptfleet.state"
REASON_TAG = "promptfleet.reason"
PARTITION_TAG = "partition_sha256"
EVENTS_TAG = "promptfleet.events"
FIGURES_TAG, TO_BE_DRAWN = "promptfleet.figures", "to be drawn"
_EVERY_ROUND = "seconds/round"  # a metric that no round lacks
EndStatus = Literal["FINISHED", "KILLED", "FAILED"]
_STATES: dict[str, str] = {"FINISHED": "complete", "KILLED": "pruned", "FAILED": "failed"}


class FederationRun:
    """Run of one federation, new or continued. Made by ``start``.

    A run that is deleted in MLflow meanwhile is written again, with all rounds that this process has seen.
    """

    def __init__(self, begin: Callable[[], TrackedRun], config: FederationConfig):
        self._lasting = LastingRun(begin)
        self._config = config
        self._logged = self.run.steps(_EVERY_ROUND)
        self._reports: dict[int, RoundReport] = {}

    @property
    def run(self) -> TrackedRun:
        return self._lasting.now

    @property
    def id(self) -> str:
        return self.run.id

    @classmethod
    def start(
        cls,
        store: TrackingStore,
        config: FederationConfig,
        *,
        key: str,
        name: str,
        parent: Callable[[], str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> "FederationRun":
        """Start the run with this key, or continue it if there is one.

        key identifies the run and survives a restart (``config.fingerprint()`` does for a single federation); parent
        gives the id of the run this one is nested in.

        Raises:
            TrackingError: the key belongs to a federation with other parameters.
        """

        def begin() -> TrackedRun:
            run = store.find_or_create_run(key, name, parent=parent and parent(), tags=tags)
            run.log_params(flatten(result_values(config.to_dict())))
            log_origin(run, config, {**provenance(), "fingerprint": config.fingerprint()})
            return run

        return cls(begin, config)

    def log_round(self, report: RoundReport) -> None:
        """Write one round's metrics at step ``report.round``, unless that step was written before.

        Earlier rounds that could not be written are written with it.
        """
        self.log_rounds([report])

    def log_rounds(self, reports: Iterable[RoundReport]) -> None:
        """Write several rounds in one batch, see ``log_round``."""
        self._reports |= {report.round: report for report in reports}
        self._renew()
        self._log_rounds()

    def finish(
        self, result: FederationResult | None, status: EndStatus = "FINISHED", *, reason: str | None = None
    ) -> None:
        """End the run, see ``end``, and draw its figures."""
        self.end(result, status, reason=reason)
        self.draw(result, status, reason=reason)

    def end(
        self,
        result: FederationResult | None,
        status: EndStatus,
        *,
        reason: str | None = None,
        objective: float | None = None,
    ) -> None:
        """End the run: KILLED is a pruned trial, FAILED one that raised ``reason``; ``objective`` is a trial's value.

        With a result its metrics, tables and states are written first; without one, the rounds seen so far.
        """
        self._renew()
        tags = self._log_result(result) if result is not None else {}
        self._log_rounds()
        if objective is not None:
            self.run.log_final_metrics({OBJECTIVE: objective}, step=0)
        note = {NOTE_TAG: self._note(result, status, reason, ())}
        self.run.set_tags({**tags, **note, **({REASON_TAG: reason} if reason else {}), FIGURES_TAG: TO_BE_DRAWN})
        end_run(self.run, status, _STATES[status])
        if result is not None:
            self._reports = {}  # they are in the result, and many ended runs may wait for their figures

    def draw(self, result: FederationSummary | None, status: EndStatus, *, reason: str | None = None) -> None:
        """Draw the figures of a run that has ended, and list them in its description."""
        figures: list[str] = []
        if result is not None:
            figures = self.run.log_figures(federation_figures(result))
        elif any(report.accuracy for report in self._reports.values()):
            figures = self.run.log_figures([("accuracy", lambda: _accuracy_figure(list(self._reports.values())))])
        self.run.set_tags({NOTE_TAG: self._note(result, status, reason, figures), FIGURES_TAG: "drawn"})

    def interrupt(self) -> None:
        """Leave the run for a later ``start`` with the same key to continue."""
        self._renew()
        self._log_rounds()
        end_run(self.run, "KILLED", "interrupted")

    def _renew(self) -> None:
        if self._lasting.renew():
            self._logged = self.run.steps(_EVERY_ROUND)

    def _log_rounds(self) -> None:
        missing = {index: self._metrics(self._reports[index]) for index in sorted(self._reports.keys() - self._logged)}
        self.run.log_steps(missing)
        self._logged |= missing.keys()

    def _metrics(self, report: RoundReport) -> dict[str, float | None]:
        return round_metrics(report, self._config) | (
            honest_metrics(report) if self._config.adversary.fraction > 0 else {}
        )

    def _note(self, result: FederationSummary | None, status: str, reason: str | None, figures: Collection[str]) -> str:
        if status == "FINISHED" and result is not None:
            return federation_note(result, figures, self._config.backbone.caveat)
        done, rounds = max(self._logged, default=0), self._config.rounds
        if status == "FAILED":
            return failed_note(done, rounds, reason, figures)
        return stopped_note(done, rounds, self.run.metrics.get("val/accuracy_mean"), figures)

    def _log_result(self, result: FederationResult) -> dict[str, str]:
        """Write the result without figures; return its tags."""
        run = self.run
        self._reports |= {report.round: report for report in result.rounds}  # those of earlier processes, too
        self._log_rounds()
        run.log_final_metrics(final_metrics(result), step=0)  # MLflow draws bars, not lines of one dot
        tags = {PARTITION_TAG: result.partition_sha256}
        run.log_text(result.to_json(), "result.json")
        run.log_table([client_row(client) for client in result.clients], "clients.json")
        events = event_rows(result.rounds)
        if events:
            run.log_table(events, "events.json")
            tags[EVENTS_TAG] = _counted(row["action"] for row in events)
        about = {"method": result.method, "seed": str(result.seed), "state_sha256": result.state_sha256}
        run.log_states(result.server, "states/server.safetensors", metadata=about)
        run.log_states(named_by_client(result.privates), "states/clients.safetensors", metadata=about)
        return tags


def log_origin(run: TrackedRun, config: FederationConfig, origin: Mapping[str, Any]) -> None:
    """Mark a run as running and write what it is made from: tags, ``config.yaml`` and ``provenance.json``."""
    run.set_tags({**federation_tags(config), **provenance_tags(), STATE_TAG: "running"})
    run.log_text(dump_yaml(config.to_dict()), "config.yaml")
    run.log_text(json.dumps(origin, indent=2), "provenance.json")


def end_run(run: TrackedRun, status: Status, state: str) -> None:
    """Close a run; ``state`` is our word where MLflow's status says less, such as pruned or interrupted."""
    run.set_tags({STATE_TAG: state})
    run.set_status(status)


def federation_tags(config: FederationConfig) -> dict[str, str]:
    """Return the tags for filtering runs."""
    return {
        "method": config.method,
        "dataset": config.dataset,
        "backbone": config.backbone.label,
        "seed": str(config.seed),
    }


def round_metrics(report: RoundReport, config: FederationConfig) -> dict[str, float | None]:
    """Return one round's metrics by name. Accuracies are fractions, times seconds.

    Metrics that are the same in every round of such a federation are None.
    """
    simulated = config.faults != FaultsConfig()
    partial = simulated or config.participation < 1
    return {
        "val/accuracy_mean": report.val_accuracy,
        "val/accuracy_min": report.val_accuracy_min,
        "val/accuracy_std": report.val_accuracy_std,
        "test/accuracy_mean": report.test_accuracy,
        "test/accuracy_min": report.test_accuracy_min,
        "test/accuracy_std": report.test_accuracy_std,
        **{name: accuracy.mean for name, accuracy in report.accuracy.items()},
        **{f"train/{name}": value for name, value in report.train_metrics.items()},
        "round/cohort_size": len(report.cohort) if partial else None,
        "round/rejected": len(report.rejected) or None,
        "round/dropped": len(report.dropped) or None,
        "round/simulated_time": report.simulated_time if simulated else None,
        "privacy/epsilon_spent": report.epsilon_spent,
        "traffic/down_bytes": report.downloaded_bytes,
        "traffic/up_bytes": report.uploaded_bytes,
        "seconds/round": report.seconds,
    }


def honest_metrics(report: RoundReport) -> dict[str, float | None]:
    """Return means over the clients that do not attack, for a federation with attackers."""
    return {
        "val/honest_accuracy_mean": report.honest_val_accuracy,
        "test/honest_accuracy_mean": report.honest_test_accuracy,
    }


def final_metrics(result: FederationResult) -> dict[str, float | None]:
    """Return final metrics: after the last round, and in the round of the best validation accuracy.

    MLflow sorts names: the two that matter, ``final/...``, come first.
    """
    return {
        "privacy/noise_multiplier": result.noise_multiplier,
        "final/val_accuracy": result.val_accuracy,
        "final/test_accuracy": result.test_accuracy,
        "zero_shot/test_accuracy": result.zero_shot_accuracy,
        "peak_round/round": result.best_round,
        "peak_round/test_accuracy": result.best_round_test_accuracy,
        **_final_sets(result),
        "seconds/total": result.seconds,
        "storage/checkpoint_bytes": result.checkpoint_bytes,
        "seconds/checkpoint": result.checkpoint_seconds,
    }


def _final_sets(result: FederationResult) -> dict[str, float]:
    """Return figures of evaluation sets beyond the means of the last round, which ``round_metrics`` has."""
    found = {f"peak_round/{name}": one.mean for name, one in result.best_round_accuracy.items()}
    if result.calibration is not None:
        found |= {f"test/calibration_{name}": getattr(result.calibration, name) for name in ("ece", "mce", "ace")}
        found |= {f"test/calibration_client_{name}": value for name, value in result.calibration.client_means.items()}
    for name, one in result.set_calibration.items():
        found |= {f"{name}_calibration_{error}": getattr(one, error) for error in ("ece", "mce")}
        found |= {f"{name}_calibration_client_{error}": value for error, value in one.client_means.items()}
    for name, one in result.accuracy.items():
        if name.startswith("test/"):
            found |= {f"{name}_bottom_decile": one.bottom_decile, f"{name}_weighted_mean": one.weighted_mean}
    found |= {f"{name}_zero_shot": one.mean for name, one in result.zero_shot.items()}
    found |= {f"{name}_participation_gap": value for name, value in result.participation_gap.items()}
    return {**found, **{f"{name}_harmonic_of_means": value for name, value in result.harmonic_of_means.items()}}


def client_row(client: ClientReport) -> dict[str, float | None]:
    """Return one client's row of ``clients.json``: its samples, and its accuracy on each evaluation set."""
    names = ("id", "held_out", "num_train", "num_val", "num_test")
    names += ("val_accuracy", "test_accuracy", "zero_shot_accuracy")
    return {**{name: getattr(client, name) for name in names}, **client.accuracy, **client.calibration}


def event_rows(reports: Sequence[RoundReport]) -> list[dict[str, Any]]:
    """Return rows of ``events.json``: all unplanned events by round. Empty for an undisturbed federation."""
    rows = []
    for report in reports:
        refused = [Event("aggregate", [client], why, "rejected") for client, why in report.rejected.items()]
        for event in [*report.events, *refused]:
            rows.append({"round": report.round, **asdict(event), "clients": ", ".join(map(str, event.clients))})
    return rows


def named_by_client(privates: Mapping[int, State]) -> State:
    """Return all clients' tensors in one dictionary, under names such as ``client_003/gate.query.weight``."""
    return {
        f"client_{client:03d}/{name}": tensor
        for client in sorted(privates)
        for name, tensor in sorted(privates[client].items())
    }


def federation_figures(result: FederationSummary) -> "Iterator[tuple[str, Callable[[], Figure | None]]]":
    """Yield name and drawing function of each figure of a federation; a function gives None without data."""
    from promptfleet.figures.described import described_figures
    from promptfleet.figures.pairs import base_new_figure, local_global_figure
    from promptfleet.figures.partition import partition_figure

    yield "accuracy", lambda: _accuracy_figure(result.rounds, result.zero_shot_accuracy, result.best_round)
    yield "partition", lambda: partition_figure(partition_counts(result))
    yield "local_global", lambda: _pair_figure(result, "test/local", "test/global", local_global_figure)
    yield "base_new", lambda: _pair_figure(result, "test/base", "test/new", base_new_figure)
    yield "reliability", lambda: _reliability_figure(result)
    yield from described_figures([client.described for client in result.clients])


def _pair_figure(
    result: FederationSummary, first: str, second: str, draw: "Callable[[Pairs], Figure]"
) -> "Figure | None":
    """Draw the accuracies of each client on two sets, None if a client lacks one."""
    pairs = [(one.accuracy.get(first), one.accuracy.get(second)) for one in result.seen_clients]
    if any(None in pair for pair in pairs):
        return None
    return draw({result.method: tuple(zip(*pairs, strict=True))})


def _reliability_figure(result: FederationSummary) -> "Figure | None":
    from promptfleet.figures.evaluation import reliability_figure

    found = result.calibration
    if found is None:
        return None
    bins = [(one.count, one.confidence, one.accuracy) for one in found.bins]
    return reliability_figure({result.method: bins}, {result.method: found.ece})


def partition_counts(result: FederationSummary) -> PartitionCounts:
    """Return the samples of each client in numbers."""
    return PartitionCounts(
        class_names=result.class_names,
        domain_names=result.domain_names,
        part_sizes=[[client.num_train, client.num_val, client.num_test] for client in result.clients],
        label_counts=[client.label_counts for client in result.clients],
        domain_counts=[client.domain_counts for client in result.clients],
        domain_label_counts=result.domain_label_counts,
    )


def _counted(words: Iterable[str]) -> str:
    """Return counts of words, such as ``2 done again, 1 dropped``."""
    return ", ".join(f"{count} {word}" for word, count in sorted(Counter(words).items()))


def _accuracy_figure(
    reports: "list[RoundReport]", zero_shot: float | None = None, best_round: int | None = None
) -> "Figure":
    from promptfleet.figures.accuracy import accuracy_figure

    reports = [report for report in reports if report.accuracy]
    columns = range(len(reports[0].client_val_accuracy)) if reports else ()
    seen = [client for client in columns if any(one.client_val_accuracy[client] is not None for one in reports)]
    return accuracy_figure(
        [report.round for report in reports],
        val=[[report.client_val_accuracy[client] for client in seen] for report in reports],
        test=[[report.client_test_accuracy[client] for client in seen] for report in reports],
        zero_shot=zero_shot,
        best_round=best_round,
    )
