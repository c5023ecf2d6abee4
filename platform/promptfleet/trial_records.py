"""Trials of a sweep as plain values: search makes them, tracking and figures show them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from promptfleet.yaml_files import as_yaml

ParamValue = int | float | str | bool
_DIGITS = 9  # values that differ less are equal: sums of the same accuracies in another order
_STATES = ("complete", "pruned", "failed", "running")  # in this order in all counts


@dataclass(frozen=True)
class TrialRecord:
    """One trial of a sweep. ``value`` is its last validation accuracy, a fraction; ``seconds`` its time so far.

    If some clients attack, ``value`` is the accuracy of the others, and so is ``honest_test_accuracy``. A trial is not
    ``feasible`` if it does not keep a constraint. ``values`` are those of all objectives, if there are several.
    ``standard_error`` is that of ``value`` over clients. ``started_s`` and ``ended_s`` are seconds since the first
    trial began.
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
    standard_error: float | None = None
    started_s: float | None = None
    ended_s: float | None = None


@dataclass(frozen=True)
class Importances:
    """Share of the objective's variance that each key explains in ``trials`` complete trials, by key.

    ``spreads`` are their standard deviations over the trees of a random forest.
    """

    shares: Mapping[str, float]
    spreads: Mapping[str, float]
    trials: int


def ranked_trials(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the complete feasible trials, the highest validation accuracy first, of equals the earliest."""
    complete = [trial for trial in trials if trial.state == "complete" and trial.value is not None and trial.feasible]
    return sorted(complete, key=lambda trial: (-round(trial.value, _DIGITS), trial.number))


def best_trial(trials: Sequence[TrialRecord]) -> TrialRecord | None:
    """Return the first of ``ranked_trials``, None without any."""
    return next(iter(ranked_trials(trials)), None)


def tied_trials(trials: Sequence[TrialRecord], best: TrialRecord | None) -> list[int]:
    """Return the numbers of the other complete feasible trials that have the best one's value."""
    if best is None:
        return []
    same = round(best.value, _DIGITS)
    return [one.number for one in ranked_trials(trials) if round(one.value, _DIGITS) == same and one != best]


def name_ties(ties: Sequence[int]) -> str:
    """Return ``tied with trials 3, 7, which have the same value`` for a line about the best trial."""
    of_them = f"trial {ties[0]}, which has" if len(ties) == 1 else f"trials {', '.join(map(str, ties))}, which have"
    return f"tied with {of_them} the same value"


def count_states(trials: Sequence[TrialRecord]) -> dict[str, int]:
    """Return the number of trials in each state, with zeros."""
    return {state: sum(trial.state == state for trial in trials) for state in _STATES}


def format_value(value: Any) -> str:
    """Return a hyperparameter's value as in a file, but real numbers with three significant digits."""
    return f"{value:.3g}" if isinstance(value, float) else as_yaml(value)
