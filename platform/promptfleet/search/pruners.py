"""Early stopping: a decision after each round by the study on disk."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, MedianPruner, PatientPruner
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from promptfleet.search.paired import paired_test

Name = Literal["asha", "median", "patient", "wilcoxon", "none"]
Judge = Callable[[Study, Sequence[FrozenTrial], FrozenTrial, int], bool]
LARGEST_P = 0.1  # of the paired test, for a trial to be stopped
LEAST_PAIRS = 6  # different ones, for a trial to be compared at all


@dataclass(frozen=True)
class Halving:
    """Asynchronous successive halving: at each rung a trial must be among the best of those that got there.

    Rungs are the rounds grace * factor^k, or the first evaluated ones after them; at each the trial must reach the
    (1 - 1/factor) quantile of the others' values there. Each ``every``-th round is evaluated. Source: Li et al., "A
    System for Massively Parallel Hyperparameter Tuning" (arXiv:1810.05934).
    """

    grace_rounds: int
    factor: int
    rounds: int
    every: int = 1

    def __call__(self, study: Study, trials: Sequence[FrozenTrial], trial: FrozenTrial, round_index: int) -> bool:
        if round_index not in self._rungs():
            return False
        others = [
            other.intermediate_values[round_index]
            for other in trials
            if round_index in other.intermediate_values and other.number != trial.number
        ]
        return bool(others) and trial.intermediate_values[round_index] < np.quantile(others, 1 - 1 / self.factor)

    def _rungs(self) -> set[int]:
        rungs, rung = set(), self.grace_rounds
        while (evaluated := -(-rung // self.every) * self.every) < self.rounds:
            rungs.add(evaluated)
            rung *= self.factor
        return rungs


@dataclass(frozen=True)
class ByOptuna:
    """A pruner of Optuna's, which is asked after each round."""

    pruner: BasePruner

    def __call__(self, study: Study, trials: Sequence[FrozenTrial], trial: FrozenTrial, round_index: int) -> bool:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return self.pruner.prune(study, trial)


@dataclass(frozen=True)
class PairedTest:
    """Compares the clients of a trial with those of the best complete one after the same round, by the objective.

    The trial is stopped where its clients are worse by a one-sided ``paired_test``, p below 0.1. Clients of one
    federation share a server, so p is rather too small than too large; where they also share the model and the samples,
    as with ``val/global``, their values are one, and it takes as many federations as it otherwise takes clients.
    """

    grace_rounds: int

    def __call__(self, study: Study, trials: Sequence[FrozenTrial], trial: FrozenTrial, round_index: int) -> bool:
        complete = [other for other in trials if other.state == TrialState.COMPLETE]
        mine = trial.user_attrs.get(clients_attr(round_index))
        if round_index < self.grace_rounds or not complete or mine is None:
            return False
        best = max(complete, key=lambda other: other.value).user_attrs.get(clients_attr(round_index))
        if best is None or len(best) != len(mine):
            return False
        pairs = np.array([mine, best], dtype=float)
        pairs = pairs[:, ~np.isnan(pairs).any(axis=0)]  # of clients that were evaluated
        if np.unique(pairs, axis=1).shape[1] < LEAST_PAIRS:
            return False
        return paired_test(pairs[0] - pairs[1], "less") < LARGEST_P


def clients_attr(round_index: int) -> str:
    """Return the attribute of a trial that has its clients' values of the objective after a round."""
    return f"clients:{round_index}"


def make_pruner(
    name: Name,
    *,
    grace_rounds: int,
    reduction_factor: int,
    patience: int,
    startup_trials: int,
    rounds: int,
    every: int = 1,
) -> Judge | None:
    """Return the function that decides after a round whether a trial is stopped, None where none is."""
    median = MedianPruner(n_startup_trials=max(1, startup_trials), n_warmup_steps=grace_rounds)
    judges: dict[str, Judge | None] = {
        "asha": Halving(grace_rounds, reduction_factor, rounds, every),
        "median": ByOptuna(median),
        "wilcoxon": PairedTest(grace_rounds),
        "none": None,
    }
    if name == "patient":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return ByOptuna(PatientPruner(median, patience=patience))
    return judges[name]
