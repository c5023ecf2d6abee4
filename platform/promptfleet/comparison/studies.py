"""Studies of a comparison: one that tunes each method, and one whose trials are compared."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from promptfleet.comparison.spec import ComparisonSpec
from promptfleet.config import FederationConfig
from promptfleet.search.rebuild import rebuild_study
from promptfleet.search.records import trial_records
from promptfleet.search.space import Choice, Parameter
from promptfleet.search.spec import SweepSettings, SweepSpec
from promptfleet.search.study import SweepStudy
from promptfleet.search.sweep import open_study
from promptfleet.search.widened import open_widened
from promptfleet.trial_records import best_trial


def tuning_folder(folder: Path, method: str) -> Path:
    """Return the folder of a method's study and its trials in the comparison's ``folder``."""
    return folder / "tuning" / method


def comparison_study(spec: ComparisonSpec, folder: Path) -> SweepStudy:
    """Open the study whose trials are compared, a grid of seeds and methods; they may have become more.

    Raises DataError.
    """
    space, rounds = _space(spec), next(spec.configs()).rounds
    settings = SweepSettings(sampler="grid", trials=len(spec.seeds) * len(spec.methods))
    return open_widened(folder, lambda place: SweepStudy(place, space, settings, rounds), space)


def tuned_values(sweep: SweepSpec, folder: Path, study: SweepStudy) -> dict[str, Any] | None:
    """Return the searched values of the highest validation accuracy; None if every trial failed."""
    trial = best_trial(trial_records(folder, study, sweep.config, seeds=sweep.settings.seeds_per_trial))
    return None if trial is None else dict(trial.params)


def check_studies(spec: ComparisonSpec, folder: Path) -> None:
    """Raise DataError if one of the existing studies cannot be used."""
    for method, sweep in spec.tuning.items():
        if tuning_folder(folder, method).exists():
            open_study(sweep, tuning_folder(folder, method))
    comparison_study(spec, folder)


def rebuild_studies(spec: ComparisonSpec, folder: Path) -> None:
    """Build unusable studies again, see ``rebuild_study``."""
    tuned: dict[str, dict[str, Any] | None] = {}
    for method, sweep in spec.tuning.items():
        mine = tuning_folder(folder, method)
        if mine.exists():
            tuned[method] = tuned_values(sweep, mine, _rebuilt_tuning(sweep, mine))

    def config(params: Mapping[str, Any]) -> FederationConfig:
        return spec.config(params["method"], params["seed"], tuned.get(params["method"]))

    rebuild_study(folder, lambda place: comparison_study(spec, place), _space(spec), config)


def _rebuilt_tuning(sweep: SweepSpec, folder: Path) -> SweepStudy:
    seeds = sweep.settings.seeds_per_trial
    return rebuild_study(folder, lambda place: open_study(sweep, place), sweep.space, sweep.config, seeds=seeds)


def _space(spec: ComparisonSpec) -> dict[str, Parameter]:
    return {"seed": Choice(spec.seeds), "method": Choice(spec.methods)}
