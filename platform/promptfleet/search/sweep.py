"""Sweep: Ray Tune runs the federations that the study proposes, one communication round per step."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptfleet.cluster.nodes import Node
from promptfleet.config import FederationConfig
from promptfleet.errors import ConfigError
from promptfleet.federation.prepare import Prepared
from promptfleet.federation.reports import FederationSummary
from promptfleet.federation.resources import Shares, announce_gpus, plan_shares
from promptfleet.search.final_stage import final_folder, final_ranking, final_space, final_stage
from promptfleet.search.finalists import Finalist, tied_finalists
from promptfleet.search.history import read_history
from promptfleet.search.outcome_files import FIGURES, write_best_prompts, write_outcome
from promptfleet.search.rebuild import BESIDE
from promptfleet.search.records import trial_records, trial_summary
from promptfleet.search.samplers import GRID
from promptfleet.search.seats import most_concurrent
from promptfleet.search.spec import SweepSpec
from promptfleet.search.stage import Stage
from promptfleet.search.study import SweepStudy
from promptfleet.storage.remote import bring_file
from promptfleet.tracking.outages import persistently
from promptfleet.tracking.store import TrackingStore
from promptfleet.tracking.sweep_run import SweepRun
from promptfleet.tracking.writer import LATE_AT_END_S, LATE_S, BackgroundWriter
from promptfleet.trial_records import TrialRecord, best_trial, tied_trials


@dataclass(frozen=True)
class SweepOutcome:
    """Outcome of a sweep. ``best`` and ``best_result`` are None if no trial ran all its rounds."""

    records: Sequence[TrialRecord]
    best: TrialRecord | None  # the winner where there are finalists
    best_result: FederationSummary | None
    interrupted: bool
    ui_hint: str
    untracked: str | None  # why MLflow lacks a part of it
    used_up: str | None = None  # the part of the budget, other than trials, of which nothing is left
    finalists: Sequence[Finalist] = ()  # the winner first
    ties: Sequence[int] = ()  # trials that are as good as the best one
    front: Sequence[int] = ()  # of several objectives, the trials that no other one beats in each
    undrawn: int = 0  # runs whose figures MLflow lacks
    drawing_interrupted: bool = False  # by Ctrl-C, when all trials had ended


def plan_sweep(spec: SweepSpec, nodes: Sequence[Node]) -> Shares:
    """Return shares of the largest federation of the sweep. Raises ResourceError if the trials do not fit."""
    clients = spec.space.get("clients")
    sizes = clients.extremes() if clients else [spec.base_config().clients]
    configs = [spec.base_config().model_copy(update={"clients": size}) for size in sizes]
    plans = [plan_shares(config, nodes, concurrent=concurrent_trials(spec, nodes)) for config in configs]
    return max(plans, key=lambda shares: shares.client_actors)


def concurrent_trials(spec: SweepSpec, nodes: Sequence[Node]) -> int:
    """Return how many trials run at the same time; with ``auto``, as many of the largest as fill the cluster."""
    settings = spec.settings
    if settings.concurrent_trials != "auto":
        return settings.concurrent_trials
    clients = spec.space.get("clients")
    largest = max(clients.extremes()) if clients else spec.base_config().clients
    config = spec.base_config().model_copy(update={"clients": largest})
    return most_concurrent(config, nodes, seeds=settings.seeds_per_trial, trials=settings.trials)


def open_study(spec: SweepSpec, folder: Path) -> SweepStudy:
    """Open the sweep's study in ``folder``, a new one if there is none. Raises DataError, see ``SweepStudy``."""
    home = folder.parent if folder.name == BESIDE else folder
    history = read_history(home, spec.space)
    config, first = spec.base_config(), spec.first_params()
    every = config.evaluation.every
    return SweepStudy(folder, spec.space, spec.settings, config.rounds, first, history, every=every, name=home.name)


def check_budget(spec: SweepSpec, study: SweepStudy, raised: Collection[str] = ()) -> None:
    """Raise ConfigError if more trials have ended than the sweep may have, or a ``raised`` part is used up already."""
    ended = sum(trial.state.is_finished() for trial in study.trials())
    if ended > spec.settings.trials:
        raise ConfigError(
            f"--trials {spec.settings.trials}: {ended} trials of this sweep have ended already; give more than that, "
            f"or {ended} to end it as it is"
        )
    used = study.used()
    for name in raised:
        limit = getattr(spec.settings.budget, name)
        if limit is not None and used[name] >= limit:
            raise ConfigError(
                f"--budget {name}={limit}: this sweep has used {used[name]:g} already; give more than that"
            )


def run_sweep(spec: SweepSpec, folder: Path, prepared: Prepared, nodes: Sequence[Node]) -> SweepOutcome:
    """Run the unfinished trials of the sweep in ``folder``, and write all of it to MLflow.

    Runs on the Ray that this process is connected to, which has ``nodes``. Ctrl-C ends it in good order; the next run
    continues it. The files in ``folder`` are there before the last figures of MLflow, which Ctrl-C leaves out. Raises
    TrackingError if there can be no MLflow store.
    """
    from promptfleet.search.tune_run import run_trials  # imports ray, which reads its settings on import

    config = spec.base_config()
    announce_gpus(plan_sweep(spec, nodes), config, prepared, nodes)
    store = persistently(lambda: TrackingStore.open(config.storage.folder))
    study = open_study(spec, folder)
    with BackgroundWriter() as writer:
        sweep = persistently(
            lambda: SweepRun.start(store, config, key=f"sweep/{folder.name}", name=folder.name, search=spec.to_dict())
        )
        stage = Stage("trial", folder, study, spec.config, sweep, config.storage, seeds=spec.settings.seeds_per_trial)

        def run(stage: Stage) -> None:
            concurrent = concurrent_trials(spec, nodes)
            run_trials([stage], folder, prepared, nodes, store, writer, concurrent=concurrent)

        run(stage)
        records = finish_sweep(spec, folder, study, sweep, writer)
        final = _final_stage(spec, folder, study, store, sweep) if study.is_over() else None
        if final is not None:
            run(final)
            finish_sweep(spec, final.folder, final.study, final.parent, writer, config=final.config)
        is_over = study.is_over() and (final is None or final.study.is_over())
        finalists = final_ranking(final) if final is not None else []
        best, ties = _best(spec, records, finalists)
        write_outcome(spec, folder, records, best, ties)
        write_best_prompts(spec, folder, best)
        writer.close(late_s=LATE_AT_END_S if is_over else LATE_S)
    front = study.front() if spec.goals.are_several else []
    result = trial_summary(folder, spec.config(best.params), study.trials()[best.number]) if best else None
    hint = store.ui_hint(sweep.view)
    return SweepOutcome(
        records,
        best,
        result,
        not is_over,
        hint,
        writer.last_reason,
        used_up=study.used_up(),
        finalists=finalists,
        ties=ties,
        front=front,
        undrawn=writer.left_out,
        drawing_interrupted=writer.interrupted,
    )


def _best(
    spec: SweepSpec, records: Sequence[TrialRecord], finalists: Sequence[Finalist]
) -> tuple[TrialRecord | None, list[int]]:
    """Return the winner of the finalists, otherwise the best trial, and the numbers of those that are as good."""
    if spec.goals.are_several:
        return None, []
    if finalists:
        return records[finalists[0].number], tied_finalists(finalists)
    best = best_trial(records)
    return best, tied_trials(records, best)


def best_record(
    spec: SweepSpec, folder: Path, study: SweepStudy, records: Sequence[TrialRecord]
) -> tuple[TrialRecord | None, list[int]]:
    """Return the winner of the finalists on disk, otherwise the best trial, and the numbers of those that are as good.

    None if there is none, or no single one.
    """
    space = final_space(spec, study) if study.is_over() else None
    has_finals = space is not None and final_folder(folder, space).is_dir()
    finalists = final_ranking(final_stage(spec, folder, study, space)) if has_finals else []
    return _best(spec, records, finalists)


def _final_stage(
    spec: SweepSpec, folder: Path, study: SweepStudy, store: TrackingStore, sweep: SweepRun
) -> Stage | None:
    """Return the stage of the finalists, None where there are none."""
    space = final_space(spec, study)
    if space is None:
        return None
    about = {"sampler": GRID, "space": {key: parameter.entry() for key, parameter in space.items()}}
    names = {"key": f"sweep/{folder.name}/finalists", "name": f"{folder.name} finalists"}
    parent = persistently(
        lambda: SweepRun.start(store, spec.base_config(), search=about, parent=lambda: sweep.id, **names)
    )
    return final_stage(spec, folder, study, space, parent)


def finish_sweep(
    spec: SweepSpec,
    folder: Path,
    study: SweepStudy,
    sweep: SweepRun,
    writer: BackgroundWriter,
    *,
    config: Callable[[Mapping[str, Any]], FederationConfig] | None = None,
) -> list[TrialRecord]:
    """Write the sweep's table, figures and best trial to MLflow and end its run; return its trials."""
    seeds = 1 if config else spec.settings.seeds_per_trial
    records = trial_records(folder, study, config or spec.config, seeds=seeds)
    log_scale = [key for key, parameter in spec.space.items() if getattr(parameter, "log", False)]
    status = "FINISHED" if study.is_over() else "KILLED"
    front = study.front() if spec.goals.are_several else []

    def finish() -> None:
        about = {"log_scale": log_scale, "objectives": spec.goals.objectives, "front": front}
        figures = sweep.finish(records, study.importances, status=status, folder=folder / FIGURES, **about)
        for figure in figures:
            bring_file(spec.base_config().storage, folder / FIGURES / f"{figure}.png")

    writer.submit(finish)
    return records
