"""Recovery of ended trials whose results are missing on disk: they are run again, and the study stays as it is."""

import logging
from collections.abc import Sequence
from dataclasses import replace

from optuna.trial import FrozenTrial, TrialState

from promptfleet.federation.checkpoints.folder import bring_result
from promptfleet.search.folders import trial_folder
from promptfleet.search.objective import Objective
from promptfleet.search.quantities import RoundFigures
from promptfleet.search.records import trial_summaries
from promptfleet.search.seats import seat_folders
from promptfleet.search.stage import Stage
from promptfleet.search.study import Proposal, SweepStudy

logger = logging.getLogger(__name__)


def with_lost_results(stage: Stage) -> Stage:
    """Return a stage that also runs the trials whose results are missing, and log them.

    One that still has a checkpoint gives its result again at once; without one it is computed again, to the same bits.
    """
    lost = [trial for trial in stage.study.trials() if _lacks_result(stage, trial)]
    for trial in lost:
        logger.info("%s %d: its result is missing on the disk and is restored", stage.name, trial.number)
    return replace(stage, study=StudyWithLost(stage.study, lost)) if lost else stage


def bring_results(stage: Stage) -> None:
    """Download the results that are missing here if ``storage.path`` is an address: other nodes may have run them."""
    for trial in stage.study.trials() if stage.storage.address else ():
        _lacks_result(stage, trial)


def _lacks_result(stage: Stage, trial: FrozenTrial) -> bool:
    """Return True if an ended trial has no result, neither here nor at the address, which is asked if it has not."""
    if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
        return False
    config = stage.config(trial.params)
    if None in trial_summaries(stage.folder, config, trial, seeds=stage.seeds):
        for folder in seat_folders(trial_folder(stage.folder, trial.number), stage.seeds):
            bring_result(folder, stage.storage)
        return None in trial_summaries(stage.folder, config, trial, seeds=stage.seeds)
    return False


class StudyWithLost:
    """Study whose ``lost`` trials count as running until they have reached their old ends again."""

    def __init__(self, study: SweepStudy, lost: Sequence[FrozenTrial]):
        self._study = study
        self._lost = {trial.number: trial for trial in lost}
        self._handed_out: set[int] = set()

    @property
    def objective(self) -> Objective:
        return self._study.objective

    def next_proposal(self) -> Proposal | None:
        for number in self._lost.keys() - self._handed_out:
            self._handed_out.add(number)
            trial = self._lost[number]
            return Proposal(number, dict(trial.params), max(0, _last_round(trial) - 1))
        return self._study.next_proposal()

    def why_failed(self, number: int) -> str:
        return self._study.why_failed(number)

    def take_back(self, number: int) -> None:
        self._handed_out.discard(number)
        self._study.take_back(number)

    def has_ended(self, number: int) -> bool:
        return number not in self._lost and self._study.has_ended(number)

    def rounds_reported(self, number: int) -> int:
        return self._study.rounds_reported(number)

    def trials_left(self) -> int:
        return self._study.trials_left() + len(self._lost)

    def is_over(self) -> bool:
        return self.trials_left() == 0

    def report(self, number: int, round_index: int, value: float, figures: RoundFigures | None = None) -> None:
        self._study.report(number, round_index, value, figures)

    def should_stop(self, number: int, round_index: int) -> bool:
        """Return True if the trial stops here: a lost trial at its old end, also after later trials."""
        if number in self._lost:
            trial = self._lost[number]
            return trial.state == TrialState.PRUNED and round_index >= _last_round(trial)
        return self._study.should_stop(number, round_index)

    def note(self, number: int, figures: RoundFigures) -> None:
        self._study.note(number, figures)

    def complete(self, number: int, value: float) -> None:
        if not self._is_back(number):
            self._study.complete(number, value)

    def prune(self, number: int) -> None:
        if not self._is_back(number):
            self._study.prune(number)

    def fail(self, number: int, reason: str) -> None:
        if self._is_back(number):
            logger.warning("trial %d: its result could not be restored (%s)", number, reason)
        else:
            self._study.fail(number, reason)

    def require_written(self) -> None:
        self._study.require_written()

    def trials(self) -> list[FrozenTrial]:
        return self._study.trials()

    def _is_back(self, number: int) -> bool:
        return self._lost.pop(number, None) is not None


def _last_round(trial: FrozenTrial) -> int:
    return max(trial.intermediate_values, default=0)
