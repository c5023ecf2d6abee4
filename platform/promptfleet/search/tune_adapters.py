"""Ray Tune's searcher and scheduler, both asking the studies on disk and keeping nothing themselves."""

from collections.abc import Sequence
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from promptfleet.search.stage import NUMBER, STAGE, Stage
from promptfleet.search.trial import OBJECTIVE


class NotSaved:
    """For what Tune wants to write into its own experiment state, from which a sweep is never restored."""

    def __getstate__(self) -> dict:
        return {}


class StageSearcher(NotSaved, Searcher):
    """Hands out what the stages' studies propose, one stage after the other, and tells them how trials ended."""

    def __init__(self, stages: Sequence[Stage]):
        super().__init__(metric=OBJECTIVE, mode="max")
        self._stages = stages
        self._trials: dict[str, tuple[Stage, int]] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """None while a stage's last trials are running, since the next one may depend on what they give."""
        for stage in self._stages:
            proposal = stage.study.next_proposal()
            if proposal is not None:
                self._trials[trial_id] = stage, proposal.number
                return stage.trial(proposal)
            if not stage.study.is_over():
                return None
        return Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """Without a result and without an error the trial was interrupted: it stays open for a resumed sweep."""
        stage, number = self._trials[trial_id]
        study = stage.study
        if error:
            study.fail(number, "the trial raised an error or its process died")
        elif result is not None and result["round"] >= result["rounds"]:
            study.report(number, result["round"], result[OBJECTIVE])  # Tune shows a last round to no scheduler
            study.complete(number, result[OBJECTIVE])
        elif result is not None:
            study.prune(number)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the studies are on disk."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a sweep goes on from its study, not from Tune's experiment state")


class RungScheduler(NotSaved, FIFOScheduler):
    """Stops a trial after a round where its study says so."""

    def __init__(self, stages: Sequence[Stage]):
        super().__init__()
        self._studies = {stage.name: stage.study for stage in stages}

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        number, study = trial.config[NUMBER], self._studies[trial.config[STAGE]]
        study.report(number, result["round"], result[OBJECTIVE])
        stop = study.should_stop(number, result["round"])
        return TrialScheduler.STOP if stop else TrialScheduler.CONTINUE
