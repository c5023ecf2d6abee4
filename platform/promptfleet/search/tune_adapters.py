"""Searcher and scheduler for Ray Tune: both ask the studies on disk and keep nothing themselves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from promptfleet.cluster.watch import require_ray
from promptfleet.errors import StorageError
from promptfleet.federation.failures import FailsAgain
from promptfleet.search.stage import NUMBER, STAGE, Stage
from promptfleet.search.study import SweepStudy
from promptfleet.search.trial import FIGURES, OBJECTIVE

MAX_FAILURES = 6


class NotSaved:
    """Mixin for objects that Tune would save in its experiment state, from which a sweep is never restored."""

    def __getstate__(self) -> dict:
        return {}


class StageSearcher(NotSaved, Searcher):
    """Searcher that passes on the studies' proposals, one stage after the other, and reports the ends of trials.

    A trial that failed is proposed again, and continues after its last round: Tune itself would give up one whose
    process dies while it is being set up, and waits forever for one that dies while it is reset. It has failed for good
    after more than ``MAX_FAILURES`` failures since its last new round, or if the scheduler found that another try is of
    no use.
    """

    def __init__(self, stages: Sequence[Stage]):
        super().__init__(metric=OBJECTIVE, mode="max")
        self._stages = stages
        self._trials: dict[str, tuple[Stage, int]] = {}
        self._failures: dict[tuple[str, int, int], int] = {}  # by stage, number, and rounds at that time

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return None while a stage's last trials are running, since the next one may depend on their values."""
        for stage in self._stages:
            proposal = stage.study.next_proposal()
            if proposal is not None:
                stage.keep_study()
                self._trials[trial_id] = stage, proposal.number
                return stage.trial(proposal)
            if not stage.study.is_over():
                return None
        return Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """Record a trial's end; without a result and an error it was interrupted and stays open for a resumed sweep.

        Raises RayGone: it is not the trial that failed.
        """
        stage, number = self._trials[trial_id]
        study = stage.study
        if result is not None and FIGURES in result:
            study.note(number, result[FIGURES])
        if error:
            self._failed(stage, number)
        elif result is not None and result["round"] >= result["rounds"]:
            _report(study, number, result)  # Tune shows a last round to no scheduler
            study.complete(number, result[OBJECTIVE])
        elif result is not None:
            study.prune(number)
        stage.keep_study()

    def _failed(self, stage: Stage, number: int) -> None:
        require_ray()
        if stage.study.has_ended(number):
            return
        key = stage.name, number, stage.study.rounds_reported(number)
        self._failures[key] = self._failures.get(key, 0) + 1
        if self._failures[key] > MAX_FAILURES:
            stage.study.fail(number, "the trial raised an error or its process died, again and again")
        else:
            stage.study.take_back(number)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the studies are on disk."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a sweep resumes from its study, not from Tune's experiment state")


class RungScheduler(NotSaved, FIFOScheduler):
    """Scheduler that stops a trial after a round if its study says so, and for good if a client fails for good.

    If a disk refuses, ``refused`` is the error: no trial is to blame for that, so all of them stay open.
    """

    def __init__(self, stages: Sequence[Stage]):
        super().__init__()
        self.refused: StorageError | None = None
        self._studies = {stage.name: stage.study for stage in stages}

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        number, study = trial.config[NUMBER], self._studies[trial.config[STAGE]]
        if result[OBJECTIVE] is None:  # a round that is not evaluated
            return TrialScheduler.CONTINUE
        _report(study, number, result)
        stop = study.should_stop(number, result["round"])
        return TrialScheduler.STOP if stop else TrialScheduler.CONTINUE

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Fail a trial whose error would repeat, before the searcher acts. Raises StorageError, which ends the run."""
        error = _last_error(trial)
        if isinstance(error, StorageError):
            self.refused = error
            raise error
        if isinstance(error, FailsAgain):
            self._studies[trial.config[STAGE]].fail(trial.config[NUMBER], str(error))


def _report(study: SweepStudy, number: int, result: Mapping[str, Any]) -> None:
    study.report(number, result["round"], result[OBJECTIVE], result.get(FIGURES))


def _last_error(trial: Trial) -> BaseException | None:
    """Return the error of the trial's step; None if its process died. Tune's own way finds it only after the run."""
    path = trial.pickled_error_file
    error = cloudpickle.loads(Path(path).read_bytes()) if path else None
    return getattr(error, "cause", None)
