"""Study of a sweep on disk: the proposed trials, their values round by round, and the decisions to stop early.

Optuna proposes (a grid's next point aside) and remembers. Both the next proposal and the decision to stop a trial are
functions of the study on disk and of the sweep's seed, so a killed sweep resumes without a difference.
"""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from promptfleet.search.budget import QUANTITIES_ATTR, SECONDS_ATTR, used_by
from promptfleet.search.goals import parse_goals
from promptfleet.search.importances import hyperparameter_importances
from promptfleet.search.objective import Objective, parse_objective
from promptfleet.search.pruners import clients_attr, make_pruner
from promptfleet.search.quantities import RoundFigures
from promptfleet.search.samplers import GRID, ask, distribution, make_sampler, notes
from promptfleet.search.space import Parameter
from promptfleet.search.spec import SweepSettings, grid_points
from promptfleet.search.study_file import StudyFile
from promptfleet.trial_records import Importances

Access = TypeVar("Access", bound=Callable[..., Any])


def patient(access: Access) -> Access:
    """Make a method of ``SweepStudy`` wait while its database cannot be used, and give up with one line."""

    @wraps(access)
    def patiently(self: "SweepStudy", *arguments: Any, **options: Any) -> Any:
        return self._file.patiently(lambda: access(self, *arguments, **options))

    return patiently


@dataclass(frozen=True)
class Proposal:
    """One federation to run: its number in the study, its searched values, and how many rounds need no second report.

    The last round is reported again, since the decision to stop there may be missing.
    """

    number: int
    params: Mapping[str, Any]
    settled_rounds: int


class SweepStudy:
    """Optuna study that maximizes, with early stopping by asynchronous successive halving (ASHA).

    Every access is safe to repeat: a duplicate report of a round or of a trial's end changes nothing. An access that
    fails, on a full disk or while another process locks the database, is repeated for ten minutes. first_params are
    values that the first trial has instead of drawing them. Trials are evaluated in each ``every``-th round, and in
    the last. A new study is called ``name``, by default as its folder.

    Raises:
        DataError: by each method too, the database cannot be used for ten minutes.
        DamagedStudy: by each method too, its content was changed.
    """

    def __init__(
        self,
        folder: str | Path,
        space: Mapping[str, Parameter],
        settings: SweepSettings,
        rounds: int,
        first_params: Mapping[str, Any] | None = None,
        history: Sequence[FrozenTrial] = (),
        *,
        every: int = 1,
        name: str | None = None,
    ):
        self._first_points = [*([first_params] if first_params else []), *settings.enqueue]
        self._history = history
        self._goals = parse_goals(settings.objectives, settings.constraint, main=settings.objective, source="study")
        self._grid = grid_points(space) if settings.sampler == GRID else None
        self._parameters = space
        self._settings = settings
        self._rounds = rounds
        self._pruner = make_pruner(
            "none" if settings.sampler == GRID else settings.pruner,
            grace_rounds=settings.grace_rounds,
            reduction_factor=settings.reduction_factor,
            patience=settings.patience,
            startup_trials=settings.startup_trials,
            rounds=rounds,
            every=every,
        )
        optuna.logging.set_verbosity(optuna.logging.ERROR)  # it warns at each lock that is waited for
        self._file = StudyFile(Path(folder), space, self._goals.objectives, name or Path(folder).name)
        self._study = self._file.study
        self._handed_out: set[int] = set()
        self._seconds_before: float = self._study.user_attrs.get(SECONDS_ATTR, 0.0)  # of earlier processes
        self._started: float | None = None

    @property
    def path(self) -> Path:
        return self._file.path

    @property
    def name(self) -> str:
        return self._study.study_name

    @property
    def objective(self) -> Objective:
        """The accuracy that trials are judged by."""
        return parse_objective(self._settings.objective, source="study")

    @patient
    def next_proposal(self) -> Proposal | None:
        """Return an unfinished trial, or a new one; None once the budget is spent."""
        if self._started is None:
            self._started = time.monotonic()
        self._note_seconds()
        trials = self._trials()
        for trial in trials:
            if not trial.state.is_finished() and trial.number not in self._handed_out:
                return self._hand_out(trial)
        if len(trials) >= self._settings.trials or self._used_up(trials):
            return None
        self._file.add(self._propose(trials))
        return self._hand_out(self._trial(len(trials)))

    def take_back(self, number: int) -> None:
        """Propose a trial that has not ended again."""
        self._handed_out.discard(number)

    @patient
    def has_ended(self, number: int) -> bool:
        return self._trial(number).state.is_finished()

    @patient
    def why_failed(self, number: int) -> str:
        """Return the reason given to ``fail``; empty for a trial that has not failed."""
        return self._trial(number).user_attrs.get("error", "")

    @patient
    def rounds_reported(self, number: int) -> int:
        return len(self._trial(number).intermediate_values)

    @patient
    def trials_left(self) -> int:
        """Return the number of trials of the budget that have not ended, also those that have not started."""
        trials = self._trials()
        ended = sum(trial.state.is_finished() for trial in trials)
        wanted = len(trials) if self._used_up(trials) else self._settings.trials
        return max(0, wanted - ended)

    @patient
    def used(self) -> dict[str, float]:
        """Return what the trials used so far, by the keys of ``Budget``, without ``trials``."""
        return self._used(self._trials())

    @patient
    def used_up(self) -> str | None:
        """Return the part of the budget, other than trials, that is used up; None if there is some left."""
        return self._used_up(self._trials())

    def is_over(self) -> bool:
        return self.trials_left() == 0

    @patient
    def report(self, number: int, round_index: int, value: float, figures: RoundFigures | None = None) -> None:
        """Store the objective of one round, and what is needed of the trial's figures after it."""
        self._note_seconds()
        trial = self._trial(number)
        if not trial.state.is_finished() and round_index not in trial.intermediate_values:
            for name, attribute in self._attributes(round_index, figures).items():
                self._file.set_attribute(trial, name, attribute)
            self._file.set_round(trial, round_index, value)

    @patient
    def should_stop(self, number: int, round_index: int) -> bool:
        """Return whether the trial is stopped after this round, see ``promptfleet.search.pruners``."""
        trials = self._trials()
        return self._falls_behind(trials, trials[number], round_index)

    def _falls_behind(self, trials: Sequence[FrozenTrial], trial: FrozenTrial, round_index: int) -> bool:
        quantities = trial.user_attrs.get(QUANTITIES_ATTR)
        if self._goals.constraints and not self._goals.are_several and quantities and self._goals.are_lost(quantities):
            return True
        return self._pruner is not None and self._pruner(self._study, trials, trial, round_index)

    @patient
    def note(self, number: int, figures: RoundFigures) -> None:
        """Store the figures of a trial that is about to end as user attributes, for dashboards and the budget."""
        trial = self._trial(number)
        if not trial.state.is_finished():
            for name, value in _at_end(figures).items():
                if trial.user_attrs.get(name) != value:
                    self._file.set_attribute(trial, name, value)

    @patient
    def complete(self, number: int, value: float) -> None:
        """End a trial with the value of its main objective; those of others are of its quantities."""
        values = self._goals.values(value, self._trial(number).user_attrs.get(QUANTITIES_ATTR, {}))
        self._tell(number, TrialState.COMPLETE, values)

    @patient
    def prune(self, number: int) -> None:
        """Mark a trial as stopped early; Optuna takes its last reported value as the trial's."""
        self._tell(number, TrialState.PRUNED)

    @patient
    def fail(self, number: int, reason: str) -> None:
        trial = self._trial(number)
        if not trial.state.is_finished():
            self._file.set_attribute(trial, "error", reason)
        self._tell(number, TrialState.FAIL)

    def require_written(self) -> None:
        """Raise DataError if a write failed, which Ray Tune reports as an error of its own."""
        if self._file.failure is not None:
            raise self._file.failure

    @patient
    def trials(self) -> list[FrozenTrial]:
        return self._trials()

    @patient
    def adopt(self, trial: FrozenTrial) -> None:
        """Add a trial of another study, in the space of this one."""
        copy = deepcopy(trial)
        copy.distributions = self._spreads(trial.params)
        self._file.add(copy)

    @patient
    def restore(
        self,
        params: Mapping[str, Any] | None,
        values: Mapping[int, float] | None = None,
        *,
        complete: bool = False,
        figures: Mapping[int, RoundFigures] | None = None,
        others: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Add the next trial of the old study: its ``params``, and the objective and the figures by evaluated round.

        It has ended if it is ``complete``, or if it would be stopped after its last round given the trials before it.
        Without params it is the next proposal, and has not been run; in a grid it is none of the ``others``.
        """
        trials = self._trials()
        if params is None:
            self._file.add(self._propose(trials, others))
            return
        reported = dict(values or {})
        trial = create_trial(
            state=TrialState.RUNNING,
            params=dict(params),
            distributions=self._spreads(params),
            intermediate_values=reported,
            user_attrs={
                name: value
                for round_index, one in (figures or {}).items()
                for name, value in (self._attributes(round_index, one) | _at_end(one)).items()
            },
        )
        trial.number = len(trials)
        if complete:
            trial.state = TrialState.COMPLETE
        elif reported and self._falls_behind(trials, trial, max(reported)):
            trial.state = TrialState.PRUNED
        if trial.state.is_finished():
            quantities = trial.user_attrs.get(QUANTITIES_ATTR, {})
            trial.values = self._goals.values(reported[max(reported)], quantities)
            trial.datetime_complete = datetime.now()
            for name, by in self._goals.violations(quantities).items() if quantities else ():
                trial.set_constraint(name, by)
        self._file.add(trial)

    @patient
    def front(self) -> list[int]:
        """Return the numbers of the feasible complete trials that no other one beats in every objective."""
        return [trial.number for trial in self._study.best_trials]

    def importances(self) -> Importances | None:
        """Return the importance of each searched key for the objective, see ``hyperparameter_importances``."""
        return hyperparameter_importances(self.trials(), self._parameters, seed=self._settings.seed)

    def _attributes(self, round_index: int, figures: RoundFigures | None) -> dict[str, Any]:
        """Return the attributes of a trial after a round: quantities at its end, or where the budget is of them."""
        if figures is None:
            return {}
        found: dict[str, Any] = {}
        is_needed = self._settings.budget.is_of_reports or self._goals.constraints or self._goals.are_several
        if round_index == self._rounds or is_needed:
            found[QUANTITIES_ATTR] = dict(figures.quantities)
        if self._settings.pruner == "wilcoxon":
            found[clients_attr(round_index)] = list(figures.clients)
        return found

    def _used_up(self, trials: Sequence[FrozenTrial]) -> str | None:
        return self._settings.budget.used_up(self._used(trials))

    def _used(self, trials: Sequence[FrozenTrial]) -> dict[str, float]:
        return used_by(trials, self._seconds(), seeds=self._settings.seeds_per_trial)

    def _seconds(self) -> float:
        """Return how long the search has been running, in this process and those before it."""
        return self._seconds_before + (0.0 if self._started is None else time.monotonic() - self._started)

    def _note_seconds(self, *, at_end: bool = False) -> None:
        """Store how long the search has been running: after each round if that is limited, or else after each trial."""
        if self._started is not None and (at_end or self._settings.budget.seconds is not None):
            self._study.set_user_attr(SECONDS_ATTR, self._seconds())

    def _propose(self, trials: Sequence[FrozenTrial], others: Sequence[Mapping[str, Any]] = ()) -> FrozenTrial:
        """Return the trial after ``trials``, to be written in one piece; Optuna's ``ask`` writes each parameter.

        In a grid it is the first point that is neither one of ``trials`` nor one of ``others``.
        """
        if self._grid is not None:
            taken = set(map(_as_point, [*(trial.params for trial in trials), *others]))
            params = next(point for point in self._grid if _as_point(point) not in taken)
            return create_trial(state=TrialState.RUNNING, params=params, distributions=self._spreads(params))
        settings, number = self._settings, len(trials)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Optuna, for features that are experimental or not made for a choice
            sampler = make_sampler(
                settings.sampler,
                settings.sampler_options or {},
                self._parameters,
                seed=settings.seed,
                number=number,
                startup_trials=settings.startup_trials,
                fixed=self._first_points[number] if number < len(self._first_points) else None,
            )
            directions = list(self._goals.objectives.values())
            asked = ask(sampler, [*self._history, *trials], self._parameters, directions)
        return create_trial(
            state=TrialState.RUNNING,
            params=asked.params,
            distributions=asked.distributions,
            system_attrs=notes(asked),
        )

    def _spreads(self, params: Mapping[str, Any]) -> dict[str, BaseDistribution]:
        return {key: distribution(self._parameters[key]) for key in params}

    def _hand_out(self, trial: FrozenTrial) -> Proposal:
        self._handed_out.add(trial.number)
        return Proposal(trial.number, dict(trial.params), max(0, max(trial.intermediate_values, default=0) - 1))

    def _tell(self, number: int, state: TrialState, values: Sequence[float] | None = None) -> None:
        trial = self._trial(number)
        if trial.state.is_finished():
            return
        if state != TrialState.FAIL and (quantities := trial.user_attrs.get(QUANTITIES_ATTR)):
            for name, by in self._goals.violations(quantities).items():
                self._file.set_constraint(trial, name, by)
        self._note_seconds(at_end=True)
        self._file.tell(number, values, state)

    def _trials(self) -> list[FrozenTrial]:
        return self._file.trials()

    def _trial(self, number: int) -> FrozenTrial:
        return self._trials()[number]


def _as_point(params: Mapping[str, Any]) -> tuple[str, ...]:
    """Return values by key in a form that can be looked up, and that distinguishes 1 from 1.0."""
    return tuple(sorted(f"{key}={value!r}" for key, value in params.items()))


def _at_end(figures: RoundFigures) -> dict[str, Any]:
    """Return the attributes of a trial after its last round: the quantities of constraints, and what is shown."""
    return {QUANTITIES_ATTR: dict(figures.quantities), **figures.shown()}
