"""The trials of a sweep, run by Ray Tune on the Ray that this process is connected to."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import tune

from promptfleet.config import FederationConfig
from promptfleet.federation.prepare import Prepared
from promptfleet.federation.ray_fleet import put_frozen
from promptfleet.federation.resources import Node, Shares, plan_shares
from promptfleet.search.progress import SweepProgress
from promptfleet.search.spec import SweepSpec
from promptfleet.search.study import SweepStudy
from promptfleet.search.tracking_callback import TrackTrials
from promptfleet.search.trial import NUMBER, OBJECTIVE, PARAMS, FederationTrial
from promptfleet.search.tune_adapters import RungScheduler, StudySearcher
from promptfleet.tracking.store import TrackingStore
from promptfleet.tracking.sweep_run import SweepRun
from promptfleet.tracking.writer import BackgroundWriter

MAX_TRIAL_FAILURES = 2


def run_trials(
    spec: SweepSpec,
    folder: Path,
    study: SweepStudy,
    prepared: Prepared,
    nodes: Sequence[Node],
    store: TrackingStore,
    sweep: SweepRun,
    writer: BackgroundWriter,
) -> None:
    """Run what the study proposes until its budget is spent or Ctrl-C; everything that happens goes to MLflow."""
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # our own callbacks tell of failures
    settings, rounds = spec.settings, spec.base_config().rounds
    tracking = TrackTrials(spec, folder, sweep, writer)
    tracking.catch_up(store, study.trials())
    finished = {trial.number: trial.value for trial in study.trials() if trial.state.is_finished()}
    if len(finished) >= settings.trials:
        return

    def shares(config: FederationConfig) -> Shares:
        return plan_shares(config, nodes, concurrent=settings.concurrent_trials)

    def bundles(values: Mapping[str, Any]) -> tune.PlacementGroupFactory:
        return tune.PlacementGroupFactory(shares(spec.config(values[PARAMS])).bundles(), strategy="PACK")

    trainable = tune.with_parameters(
        FederationTrial, spec=spec, folder=str(folder), frozen=[put_frozen(prepared)], shares=shares
    )
    tune.Tuner(
        tune.with_resources(trainable, bundles),
        tune_config=tune.TuneConfig(
            metric=OBJECTIVE,
            mode="max",
            search_alg=StudySearcher(study, rounds),
            scheduler=RungScheduler(study),
            num_samples=settings.trials - len(finished),
            max_concurrent_trials=settings.concurrent_trials,
            reuse_actors=True,
            trial_name_creator=lambda trial: f"trial-{trial.config[NUMBER]:03d}",
            trial_dirname_creator=lambda trial: f"trial-{trial.config[NUMBER]:03d}-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(folder),
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # a trial keeps its own
            failure_config=tune.FailureConfig(max_failures=MAX_TRIAL_FAILURES),
            callbacks=[SweepProgress(settings.trials, rounds, finished), tracking],
        ),
    ).fit()
