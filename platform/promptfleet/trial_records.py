"""Trials of a sweep as plain values: search makes them, tracking and figures show them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from promptfleet.yaml_files import as_yaml

ParamValue = int | float | str | bool
_STATES = ("complete", "pruned", "failed", "running")  # in this order in all counts


@dataclass(frozen=True)
class TrialRecord:
    """One trial of a sweep. ``value`` is its last validation accuracy, a fraction; ``seconds`` its time so far.

    If some clients attack, ``value`` is the accuracy of the others, and so is ``honest_test_accuracy``. A trial is not
    ``feasible`` if it does not keep a constraint. ``values`` are those of all objectives, if there are several.
    """

    number: int
    state: Literal["complete", "pruned", "failed", "running"]
    params: dict[str, ParamValue]
    value: float | None
    rounds: int
    test_accuracy: float | None
    seconds: float
    honest_test_accuracy: float | None = None
    feasible: bool = True
    values: tuple[float, ...] = ()


def ranked_trials(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the complete feasible trials, the highest validation accuracy first, of equals the earliest."""
    complete = [trial for trial in trials if trial.state == "complete" and trial.value is not None and trial.feasible]
    return sorted(complete, key=lambda trial: (-trial.value, trial.number))


def best_trial(trials: Sequence[TrialRecord]) -> TrialRecord | None:
    """Return the first of ``ranked_trials``, None without any."""
    return next(iter(ranked_trials(trials)), None)


def count_states(trials: Sequence[TrialRecord]) -> dict[str, int]:
    """Return the number of trials in each state, with zeros."""
    return {state: sum(trial.state == state for trial in trials) for state in _STATES}


def format_value(value: Any) -> str:
    """Return a hyperparameter's value as in a file, but real numbers with three significant digits."""
    return f"{value:.3g}" if isinstance(value, float) else as_yaml(value)
