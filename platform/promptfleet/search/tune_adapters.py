"""Ray Tune's searcher and scheduler, both asking the studies on disk and keeping nothing themselves."""

from collections.abc import Sequence
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
from promptfleet.search.trial import OBJECTIVE

MAX_FAILURES = 6


class NotSaved:
    """For what Tune wants to write into its own experiment state, from which a sweep is never restored."""

    def __getstate__(self) -> dict:
        return {}


class StageSearcher(NotSaved, Searcher):
    """Hands out what the stages' studies propose, one stage after the other, and tells them how trials ended.

    A trial that failed is handed out again, and goes on after its last round: Tune itself would give up one whose
    process dies while it is being set up, and waits for ever for one that dies while it is reset. It has failed for
    good after more than ``MAX_FAILURES`` failures since its last new round, or where the scheduler found that trying
    again is of no use.
    """

    def __init__(self, stages: Sequence[Stage]):
        super().__init__(metric=OBJECTIVE, mode="max")
        self._stages = stages
        self._trials: dict[str, tuple[Stage, int]] = {}
        self._failures: dict[tuple[str, int, int], int] = {}  # by stage, number, and rounds at that time

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """None while a stage's last trials are running, since the next one may depend on what they give."""
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
        """Without a result and without an error the trial was interrupted: it stays open for a resumed sweep.

        Raises RayGone: it is not the trial that failed.
        """
        stage, number = self._trials[trial_id]
        study = stage.study
        if error:
            self._failed(stage, number)
        elif result is not None and result["round"] >= result["rounds"]:
            study.report(number, result["round"], result[OBJECTIVE])  # Tune shows a last round to no scheduler
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
        """Nothing to save: the studies are on disk."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a sweep goes on from its study, not from Tune's experiment state")


class RungScheduler(NotSaved, FIFOScheduler):
    """Stops a trial after a round where its study says so, and for good where one of its clients fails for good.

    Where a disk refuses, ``refused`` is why: no trial is to blame for that, so all of them stay open.
    """

    def __init__(self, stages: Sequence[Stage]):
        super().__init__()
        self.refused: StorageError | None = None
        self._studies = {stage.name: stage.study for stage in stages}

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        number, study = trial.config[NUMBER], self._studies[trial.config[STAGE]]
        study.report(number, result["round"], result[OBJECTIVE])
        stop = study.should_stop(number, result["round"])
        return TrialScheduler.STOP if stop else TrialScheduler.CONTINUE

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Called before the searcher, which is not shown the error. Raises StorageError, which ends the run."""
        error = _last_error(trial)
        if isinstance(error, StorageError):
            self.refused = error
            raise error
        if isinstance(error, FailsAgain):
            self._studies[trial.config[STAGE]].fail(trial.config[NUMBER], str(error))


def _last_error(trial: Trial) -> BaseException | None:
    """What the trial's step raised; None where its process died. Tune's own way finds it only after the run."""
    path = trial.pickled_error_file
    error = cloudpickle.loads(Path(path).read_bytes()) if path else None
    return getattr(error, "cause", None)
