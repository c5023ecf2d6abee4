"""Ray Tune's searcher and scheduler, both asking the study on disk and keeping nothing themselves."""

from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from promptfleet.search.study import SweepStudy
from promptfleet.search.trial import NUMBER, OBJECTIVE, PARAMS, SETTLED


class NotSaved:
    """For what Tune wants to write into its own experiment state, from which a sweep is never restored."""

    def __getstate__(self) -> dict:
        return {}


class StudySearcher(NotSaved, Searcher):
    """Hands out the study's proposals and tells it how they ended."""

    def __init__(self, study: SweepStudy, rounds: int):
        super().__init__(metric=OBJECTIVE, mode="max")
        self._study, self._rounds = study, rounds
        self._numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        proposal = self._study.next_proposal()
        if proposal is None:
            return Searcher.FINISHED
        self._numbers[trial_id] = proposal.number
        return {NUMBER: proposal.number, PARAMS: dict(proposal.params), SETTLED: proposal.settled_rounds}

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """Without a result and without an error the trial was interrupted: it stays open for a resumed sweep."""
        number = self._numbers[trial_id]
        if error:
            self._study.fail(number, "the trial raised an error or its process died")
        elif result is not None and result["round"] >= self._rounds:
            self._study.report(number, result["round"], result[OBJECTIVE])  # Tune shows a last round to no scheduler
            self._study.complete(number, result[OBJECTIVE])
        elif result is not None:
            self._study.prune(number)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the study is on disk."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a sweep goes on from its study, not from Tune's experiment state")


class RungScheduler(NotSaved, FIFOScheduler):
    """Stops a trial after a round where the study says so."""

    def __init__(self, study: SweepStudy):
        super().__init__()
        self._study = study

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        number = trial.config[NUMBER]
        self._study.report(number, result["round"], result[OBJECTIVE])
        stop = self._study.should_stop(number, result["round"])
        return TrialScheduler.STOP if stop else TrialScheduler.CONTINUE
