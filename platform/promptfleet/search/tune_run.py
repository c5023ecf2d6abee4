"""Run of the trials of a sweep or a comparison by Ray Tune, on the Ray that this process is connected to."""

import logging
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray import tune

from promptfleet.cluster.nodes import Node
from promptfleet.cluster.storage_nodes import is_shared, where_trials_run
from promptfleet.cluster.watch import require_ray
from promptfleet.config import FederationConfig
from promptfleet.federation.on_ray.fleet import put_frozen
from promptfleet.federation.prepare import Prepared
from promptfleet.search.lost_results import bring_results, with_lost_results
from promptfleet.search.progress import SweepProgress
from promptfleet.search.seats import Seats, plan_seats
from promptfleet.search.stage import FEDERATION, FOLDER, SEEDS, Stage
from promptfleet.search.tracking_callback import TrackTrials
from promptfleet.search.trial import OBJECTIVE, FederationTrial
from promptfleet.search.tune_adapters import RungScheduler, StageSearcher
from promptfleet.tracking.outages import persistently
from promptfleet.tracking.store import TrackingStore
from promptfleet.tracking.writer import BackgroundWriter


def run_trials(
    stages: Sequence[Stage],
    folder: Path,
    prepared: Prepared,
    nodes: Sequence[Node],
    store: TrackingStore,
    writer: BackgroundWriter,
    *,
    concurrent: int,
) -> None:
    """Run the studies' proposals until their budgets are spent or Ctrl-C, and write all of it to MLflow.

    Ended trials whose results are missing on disk are run again, and in the end all results are here. folder is for
    Tune's own notes, and this process's alone; concurrent trials run side by side.

    Raises:
        DataError: a study could not be written, or a trial's disk refuses.
        RayGone: the Ray of the run does not answer any more.
    """
    for stage in stages:
        stage.keep_study()
    stages = [with_lost_results(stage) for stage in stages]
    tracking = TrackTrials(stages, writer)
    persistently(lambda: tracking.catch_up(store))
    if all(stage.study.is_over() for stage in stages):
        return
    scheduler = RungScheduler(stages)
    tuner = _tuner(stages, folder, prepared, nodes, scheduler, tracking, concurrent)
    try:
        with _own_ctrl_c():
            tuner.fit()
    except Exception:
        require_ray()
        if scheduler.refused is not None:
            raise scheduler.refused from None
        for stage in stages:
            stage.study.require_written()
        raise
    for stage in stages:
        bring_results(stage)


@contextmanager
def _own_ctrl_c() -> Iterator[None]:
    """Give this process its handler of Ctrl-C back after the block: Tune leaves its own, which ignores one."""
    kept = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if kept is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, kept)


def _tuner(
    stages: Sequence[Stage],
    folder: Path,
    prepared: Prepared,
    nodes: Sequence[Node],
    scheduler: RungScheduler,
    tracking: TrackTrials,
    concurrent: int,
) -> tune.Tuner:
    def plan(config: FederationConfig, seeds: int) -> Seats:
        return plan_seats(config, nodes, concurrent=concurrent, seeds=seeds)

    where = where_trials_run(nodes, stages[0].storage)

    def bundles(values: Mapping[str, Any]) -> tune.PlacementGroupFactory:
        trial, *actors = plan(values[FEDERATION], values[SEEDS]).bundles()
        return tune.PlacementGroupFactory([trial | where, *actors], strategy="SPREAD")

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # our own callbacks report failures
    frozen = put_frozen(prepared, shared_files=is_shared(nodes))
    trainable = tune.with_parameters(FederationTrial, frozen=[frozen], plan=plan)
    return tune.Tuner(
        tune.with_resources(trainable, bundles),
        tune_config=tune.TuneConfig(
            metric=OBJECTIVE,
            mode="max",
            search_alg=StageSearcher(stages),
            scheduler=scheduler,
            num_samples=-1,  # until the searcher has none
            max_concurrent_trials=concurrent,
            reuse_actors=True,
            trial_name_creator=_trial_name,
            trial_dirname_creator=lambda trial: f"{_trial_name(trial)}-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(folder),
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # a trial keeps its own
            failure_config=tune.FailureConfig(max_failures=0),  # the searcher proposes a failed trial again
            callbacks=[SweepProgress(stages), tracking],
        ),
    )


def _trial_name(trial: Any) -> str:
    return f"trial-{Path(trial.config[FOLDER]).name}"
