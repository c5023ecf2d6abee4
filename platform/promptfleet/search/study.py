"""The study of a sweep on disk: what was proposed, what came back round by round, and who is stopped early.

Optuna proposes (TPE, or a grid's next point) and remembers. Both the next proposal and the decision to stop a trial
are functions of what is on disk and of the sweep's seed, so a sweep that was killed goes on as if it had not been.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from promptfleet.databases import sqlite_address
from promptfleet.errors import DataError
from promptfleet.search.importances import hyperparameter_importances
from promptfleet.search.space import Choice, IntRange, Parameter
from promptfleet.search.spec import SweepSettings, grid_points
from promptfleet.tracking.outages import cause, is_outage, persistently

FILE = "study.db"
STUDY = "sweep"
PATIENCE_S = 600.0  # with a full disk or a locked database

Write = TypeVar("Write", bound=Callable[..., Any])


def patient(write: Write) -> Write:
    """A method of ``SweepStudy`` that waits while its database cannot be written, and gives up in one line."""

    @wraps(write)
    def written(self: "SweepStudy", *arguments: Any) -> Any:
        store = f"the study {self._path}"
        try:
            return persistently(lambda: write(self, *arguments), store=store, patience_s=PATIENCE_S)
        except Exception as error:
            if not is_outage(error):
                raise
            self._unwritten = DataError(f"{store} cannot be used ({cause(error)}); --resume goes on once it can")
            raise self._unwritten from None

    return written


@dataclass(frozen=True)
class Proposal:
    """One federation to run: its number in the study, its searched values, and the rounds that are settled.

    The last round reported is not: whether the trial stops there may not have been decided yet, so it is told again.
    """

    number: int
    params: Mapping[str, Any]
    settled_rounds: int


class SweepStudy:
    """An Optuna study that maximizes, with early stopping by asynchronous successive halving (ASHA).

    Every write is safe to repeat: a round reported twice and a trial told twice change nothing. One that the database
    does not take, on a full disk for example, is tried again for ten minutes; then DataError is raised. first_params
    are values that the first trial has instead of drawing them.

    Raises:
        DataError: the database cannot be opened.
    """

    def __init__(
        self,
        folder: str | Path,
        space: Mapping[str, Parameter],
        settings: SweepSettings,
        rounds: int,
        first_params: Mapping[str, Any] | None = None,
    ):
        self._first_params = first_params
        self._grid = grid_points(space) if settings.sampler == "grid" else None
        self._parameters = space
        self._space = {key: _distribution(parameter) for key, parameter in space.items()}
        self._settings = settings
        self._milestones = _milestones(settings, rounds)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._path = Path(folder).absolute() / FILE
        self._unwritten: DataError | None = None
        self._study = _open(self._path)
        self._handed_out: set[int] = set()

    @patient
    def next_proposal(self) -> Proposal | None:
        """A trial that was begun and not finished, or a new one; None once the budget is spent."""
        trials = self._study.get_trials(deepcopy=False)
        for trial in trials:
            if not trial.state.is_finished() and trial.number not in self._handed_out:
                return self._hand_out(trial)
        if len(trials) >= self._settings.trials:
            return None
        self._study.add_trial(self._propose(trials))
        return self._hand_out(self._trial(len(trials)))

    def take_back(self, number: int) -> None:
        """Have a trial that has not ended handed out again."""
        self._handed_out.discard(number)

    def has_ended(self, number: int) -> bool:
        return self._trial(number).state.is_finished()

    def rounds_reported(self, number: int) -> int:
        return len(self._trial(number).intermediate_values)

    def trials_left(self) -> int:
        """How many trials of the budget have not ended, those that have not begun included."""
        ended = sum(trial.state.is_finished() for trial in self._study.get_trials(deepcopy=False))
        return max(0, self._settings.trials - ended)

    def is_over(self) -> bool:
        return self.trials_left() == 0

    @patient
    def report(self, number: int, round_index: int, value: float) -> None:
        """Keep the objective of one round."""
        trial = self._trial(number)
        if not trial.state.is_finished() and round_index not in trial.intermediate_values:
            self._live(trial).report(value, round_index)

    def should_stop(self, number: int, round_index: int) -> bool:
        """Whether the trial is not among the best at this rung, judged by those that got here before.

        Rungs are rounds grace * factor^k; at each the trial must reach the (1 - 1/factor) quantile of the others'
        values there. Source: Li et al., "A System for Massively Parallel Hyperparameter Tuning" (arXiv:1810.05934).
        """
        if round_index not in self._milestones:
            return False
        trials = self._study.get_trials(deepcopy=False)
        others = [t.intermediate_values[round_index] for t in trials if _reached(t, round_index) and t.number != number]
        if not others:
            return False
        return trials[number].intermediate_values[round_index] < np.quantile(
            others, 1 - 1 / self._settings.reduction_factor
        )

    @patient
    def complete(self, number: int, value: float) -> None:
        self._tell(number, TrialState.COMPLETE, value)

    @patient
    def prune(self, number: int) -> None:
        """Stopped early; Optuna takes the last reported value as the trial's."""
        self._tell(number, TrialState.PRUNED)

    @patient
    def fail(self, number: int, reason: str) -> None:
        trial = self._trial(number)
        if not trial.state.is_finished():
            self._live(trial).set_user_attr("error", reason)
        self._tell(number, TrialState.FAIL)

    def require_written(self) -> None:
        """Raise DataError if something could not be written, which Ray Tune passes on as an error of its own."""
        if self._unwritten is not None:
            raise self._unwritten

    def trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def importances(self) -> dict[str, float] | None:
        """Return how much each searched key explains of the objective, see ``hyperparameter_importances``."""
        return hyperparameter_importances(self.trials(), self._parameters, seed=self._settings.seed)

    def _propose(self, trials: Sequence[FrozenTrial]) -> FrozenTrial:
        """The trial after ``trials``, to be written in one piece; Optuna's ``ask`` writes parameter by parameter."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            draft = optuna.create_study(direction="maximize", sampler=self._sampler(len(trials)))
            draft.add_trials(trials)
            asked = draft.ask(self._space)
        return create_trial(state=TrialState.RUNNING, params=asked.params, distributions=self._space)

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        if self._grid is not None:
            return optuna.samplers.PartialFixedSampler(self._grid[number], optuna.samplers.RandomSampler())
        seed = int(np.random.SeedSequence([self._settings.seed, number]).generate_state(1)[0])
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=self._settings.startup_trials)
        if number == 0 and self._first_params:
            return optuna.samplers.PartialFixedSampler(dict(self._first_params), sampler)
        return sampler

    def _hand_out(self, trial: FrozenTrial) -> Proposal:
        self._handed_out.add(trial.number)
        return Proposal(trial.number, dict(trial.params), max(0, max(trial.intermediate_values, default=0) - 1))

    def _tell(self, number: int, state: TrialState, value: float | None = None) -> None:
        if not self.has_ended(number):
            self._study.tell(number, value, state=state)

    def _trial(self, number: int) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[number]

    def _live(self, trial: FrozenTrial) -> optuna.Trial:
        return optuna.Trial(self._study, trial._trial_id)


def _open(path: Path) -> optuna.Study:
    """Open the study in a file, new or continued. Raises DataError if it cannot be used."""
    try:
        return optuna.create_study(
            study_name=STUDY,
            storage=optuna.storages.RDBStorage(sqlite_address(path)),
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.NopPruner(),
        )
    except (SQLAlchemyError, optuna.exceptions.OptunaError, RuntimeError) as error:  # RuntimeError: another Optuna's
        raise DataError(f"the study {path} cannot be used: {cause(error)}") from error


def _milestones(settings: SweepSettings, rounds: int) -> set[int]:
    milestones, rung = set(), settings.grace_rounds
    while settings.sampler != "grid" and rung < rounds:
        milestones.add(rung)
        rung *= settings.reduction_factor
    return milestones


def _reached(trial: FrozenTrial, round_index: int) -> bool:
    return round_index in trial.intermediate_values


def _distribution(parameter: Parameter) -> BaseDistribution:
    if isinstance(parameter, Choice):
        return CategoricalDistribution(parameter.values)
    if isinstance(parameter, IntRange):
        return IntDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log)
