"""Stage after a search: its best trials again, with fresh seeds, as a separate study."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from promptfleet.config import FederationConfig
from promptfleet.federation.checkpoints.folder import load_summary
from promptfleet.search.finalists import Finalist, rank_finalists
from promptfleet.search.folders import trial_folder
from promptfleet.search.samplers import GRID
from promptfleet.search.space import Choice
from promptfleet.search.spec import SweepSettings, SweepSpec
from promptfleet.search.stage import ParentRun, Stage
from promptfleet.search.study import SweepStudy

TRIAL, SEED = "trial", "seed"


def final_space(spec: SweepSpec, study: SweepStudy) -> dict[str, Choice] | None:
    """Return the space of the finalists' study: the best complete trials, best first, and the seeds; None without."""
    if not spec.settings.finalists.trials:  # trials of several objectives have no single value, and no finalists
        return None
    complete = [trial for trial in study.trials() if trial.state == TrialState.COMPLETE and _is_feasible(trial)]
    best = sorted(complete, key=lambda trial: (-trial.value, trial.number))[: spec.settings.finalists.trials]
    if not best:
        return None
    numbers = tuple(trial.number for trial in best)
    return {TRIAL: Choice(numbers), SEED: Choice(tuple(spec.settings.finalists.seeds))}


def _is_feasible(trial: FrozenTrial) -> bool:
    return all(by <= 0 for by in trial.constraints.values())


def final_folder(folder: Path, space: Mapping[str, Choice]) -> Path:
    """Return the folder of these finalists; others have another one."""
    return folder / "finalists" / "-".join(map(str, sorted(space[TRIAL].values)))


def final_stage(
    spec: SweepSpec, folder: Path, study: SweepStudy, space: Mapping[str, Choice], parent: ParentRun | None = None
) -> Stage:
    """Return the stage of the finalists of the search in ``folder``; to run it takes an MLflow run as ``parent``."""
    place = final_folder(folder, space)
    place.mkdir(parents=True, exist_ok=True)
    points = len(space[TRIAL].values) * len(space[SEED].values)
    settings = SweepSettings(sampler=GRID, trials=points, objective=spec.settings.objective)
    finals = SweepStudy(place, space, settings, spec.base_config().rounds, name=f"{folder.name} finalists")
    found = {trial.number: trial.params for trial in study.trials()}

    def config(params: Mapping[str, Any]) -> FederationConfig:
        return spec.config({**found[params[TRIAL]], SEED: params[SEED]})

    return Stage("final", place, finals, config, parent, spec.base_config().storage)


def final_ranking(stage: Stage) -> list[Finalist]:
    """Return the finalists that have a result for a seed, the winner by the objective first; empty without any."""
    clients: dict[int, dict[int, list[float]]] = {}
    test_accuracy: dict[int, list[float]] = {}
    for trial in stage.study.trials():
        number, seed = trial.params[TRIAL], trial.params[SEED]
        summary = None
        if trial.state == TrialState.COMPLETE:
            fingerprint = stage.config(trial.params).fingerprint()
            summary = load_summary(trial_folder(stage.folder, trial.number), fingerprint)
        if summary is not None:
            values = stage.study.objective.of_clients(summary.rounds[-1], summary.adversaries)
            clients.setdefault(number, {})[seed] = [math.nan if value is None else value for value in values]
            test_accuracy.setdefault(number, []).append(summary.honest_test_accuracy)
    return rank_finalists(clients, test_accuracy) if clients else []
