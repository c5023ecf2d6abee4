"""Run of a comparison by Ray Tune: the tuning of each method, then every method with every seed."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptfleet.cluster.nodes import Node
from promptfleet.comparison.failures import Failure
from promptfleet.comparison.fairness import ComparisonError, check_same_conditions
from promptfleet.comparison.files import write_files
from promptfleet.comparison.report import ComparisonReport, Shown, make_report
from promptfleet.comparison.spec import ComparisonSpec
from promptfleet.comparison.studies import comparison_study, tuned_values, tuning_folder
from promptfleet.config import FederationConfig
from promptfleet.federation.prepare import Prepared
from promptfleet.federation.reports import FederationSummary
from promptfleet.federation.resources import Shares, announce_gpus, plan_shares
from promptfleet.search.records import trial_summary
from promptfleet.search.spec import SweepSpec
from promptfleet.search.stage import Stage
from promptfleet.search.sweep import finish_sweep, open_study
from promptfleet.tracking.comparison_run import ComparisonRun
from promptfleet.tracking.outages import persistently
from promptfleet.tracking.store import TrackingStore
from promptfleet.tracking.sweep_run import SweepRun
from promptfleet.tracking.views import view_name
from promptfleet.tracking.writer import LATE_AT_END_S, BackgroundWriter

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ComparisonOutcome:
    """Outcome of a comparison; ``report`` is None if it is not finished."""

    report: ComparisonReport | None
    interrupted: bool  # also where nothing but figures of MLflow was left
    ui_hint: str
    untracked: str | None  # why MLflow lacks a part of it
    undrawn: int = 0  # runs whose figures MLflow lacks


@dataclass(frozen=True)
class Tuning:
    """Search of one method: its stage, and its sweep."""

    sweep: SweepSpec
    stage: Stage

    def best(self) -> dict[str, Any]:
        """Return the searched values of the highest validation accuracy; none, with a warning, if all trials failed."""
        values = tuned_values(self.sweep, self.stage.folder, self.stage.study)
        if values is None:
            logger.warning("%s: no trial was completed, so the method is compared as it is", self.stage.name)
            return {}
        return values


def plan_comparison(spec: ComparisonSpec, nodes: Sequence[Node]) -> Shares:
    """Return the resources of one federation. Raises ResourceError if they do not fit side by side."""
    return plan_shares(next(spec.configs()), nodes, concurrent=spec.concurrent_trials)


def run_comparison(
    spec: ComparisonSpec,
    folder: Path,
    prepared: Prepared,
    nodes: Sequence[Node],
    shown: Shown | None = None,
    out: Path | None = None,
) -> ComparisonOutcome:
    """Run the unfinished part of the comparison in ``folder``, and write all of it to MLflow.

    Runs on the Ray that this process is connected to, which has ``nodes``. Ctrl-C ends it in good order; the next run
    continues it. Its tables are in ``folder`` and in ``out`` before the last figures of MLflow, which Ctrl-C leaves
    out.

    Raises:
        TrackingError: there can be no MLflow store.
        ComparisonError: no federation was completed, or the methods did not have the same clients and settings.
        StorageError: a disk refuses.
    """
    announce_gpus(plan_comparison(spec, nodes), next(spec.configs()), prepared, nodes)
    store = persistently(lambda: TrackingStore.open(next(spec.configs()).storage.folder))
    with BackgroundWriter() as writer:
        report = _run_tracked(spec, folder, prepared, nodes, store, writer, shown)
        if report is not None:
            write_files(report.files(), *filter(None, [folder, out]))
            writer.close(late_s=LATE_AT_END_S)
    interrupted, hint = report is None or writer.interrupted, store.ui_hint(view_name(_key(folder)))
    return ComparisonOutcome(report, interrupted, hint, writer.last_reason, undrawn=writer.left_out)


def _run_tracked(
    spec: ComparisonSpec,
    folder: Path,
    prepared: Prepared,
    nodes: Sequence[Node],
    store: TrackingStore,
    writer: BackgroundWriter,
    shown: Shown | None,
) -> ComparisonReport | None:
    """Return the report, None if it was interrupted."""
    from promptfleet.search.tune_run import run_trials  # imports ray, which reads its settings on import

    config = next(spec.configs())
    run = persistently(
        lambda: ComparisonRun.start(store, config, key=_key(folder), name=folder.name, values=spec.to_dict())
    )
    tunings = {method: _tuning(method, sweep, folder, store, run) for method, sweep in spec.tuning.items()}
    stage = _comparison(spec, folder, run, tunings)
    stages = [*(tuning.stage for tuning in tunings.values()), stage]
    run_trials(stages, folder, prepared, nodes, store, writer, concurrent=spec.concurrent_trials)
    for tuning in tunings.values():
        finish_sweep(tuning.sweep, tuning.stage.folder, tuning.stage.study, tuning.stage.parent, writer)
    if not all(stage.study.is_over() for stage in stages):
        writer.submit(run.interrupt)
        return None

    results, failed = _results(stage)
    if not results:
        writer.submit(run.fail, "no federation was completed")
        raise ComparisonError(f"no federation was completed; the first: {failed[0]}")
    try:
        check_same_conditions(results)
    except ComparisonError as error:
        writer.submit(run.fail, str(error))
        raise
    tuned = {method: tuning.best() for method, tuning in tunings.items()}
    failed += [Failure(method, None, reason) for method, reason in spec.left_out.items()]
    report = make_report(results, failed=failed, tuned=tuned, shown=shown)
    writer.submit(lambda: run.finish(report.files(), report.figures(), report.metrics(), note=report.note))
    return report


def _key(folder: Path) -> str:
    """Return the key of the comparison's run in MLflow."""
    return f"comparison/{folder.name}"


def _tuning(method: str, sweep: SweepSpec, folder: Path, store: TrackingStore, run: ComparisonRun) -> Tuning:
    mine = tuning_folder(folder, method)
    mine.mkdir(parents=True, exist_ok=True)
    config, study = sweep.base_config(), open_study(sweep, mine)
    about = {"key": f"{run.key}/tune/{method}", "name": f"tune {method}", "search": sweep.to_dict()}
    parent = persistently(lambda: SweepRun.start(store, config, parent=run.living_id, **about))
    seeds = sweep.settings.seeds_per_trial
    return Tuning(sweep, Stage(f"tune {method}", mine, study, sweep.config, parent, config.storage, seeds=seeds))


def _comparison(spec: ComparisonSpec, folder: Path, run: ComparisonRun, tunings: Mapping[str, Tuning]) -> Stage:
    best: dict[str, dict[str, Any]] = {}

    def config(params: Mapping[str, Any]) -> FederationConfig:
        method = params["method"]
        if method in tunings and method not in best:
            best[method] = tunings[method].best()
        return spec.config(method, params["seed"], best.get(method))

    return Stage("compare", folder, comparison_study(spec, folder), config, run, next(spec.configs()).storage)


def _results(stage: Stage) -> tuple[dict[tuple[str, int], FederationSummary], list[Failure]]:
    """Return the result of each method with each seed, method by method, and the failures."""
    results, failed = {}, []
    for trial in stage.study.trials():
        method, seed = trial.params["method"], trial.params["seed"]
        summary = trial_summary(stage.folder, stage.config(trial.params), trial) if trial.value is not None else None
        if summary is None:
            failed.append(Failure(method, seed, trial.user_attrs.get("error", "its result cannot be read")))
        else:
            results[method, seed] = summary
    order = {method: position for position, method in enumerate(dict.fromkeys(method for method, _ in results))}
    return dict(sorted(results.items(), key=lambda item: (order[item[0][0]], item[0][1]))), failed
