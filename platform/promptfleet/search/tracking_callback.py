"""What Tune tells about trials, written to MLflow by a background thread of the driver."""

from collections.abc import Sequence
from typing import Any

from optuna.trial import TrialState
from ray import tune
from ray.tune.experiment import Trial

from promptfleet.config import fingerprint_of
from promptfleet.federation.reports import round_report_from_dict
from promptfleet.federation.settings import federation_config
from promptfleet.federation.storage.stored import bring_result, load_result
from promptfleet.search.stage import FEDERATION, FOLDER, NUMBER, PARAMS, STAGE, Stage
from promptfleet.search.study import Proposal
from promptfleet.search.tune_adapters import NotSaved
from promptfleet.tracking.federation_run import FederationRun
from promptfleet.tracking.store import TrackingStore
from promptfleet.tracking.writer import BackgroundWriter

RUN_STATUS = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED", TrialState.FAIL: "FAILED"}


class TrackTrials(NotSaved, tune.Callback):
    """A nested run per trial: a batch of metrics per round, and everything else when it ends."""

    def __init__(self, stages: Sequence[Stage], writer: BackgroundWriter):
        self._stages = {stage.name: stage for stage in stages}
        self._writer = writer
        self._runs: dict[tuple[str, int], FederationRun] = {}

    def catch_up(self, store: TrackingStore) -> None:
        """Write what trials gave that had ended before a sweep was killed, and had not reached MLflow yet."""
        for stage in self._stages.values():
            written = store.ended_children(stage.parent.id, "trial")
            for trial in stage.study.trials():
                if stage.study.has_ended(trial.number) and str(trial.number) not in written:
                    values = stage.trial(Proposal(trial.number, trial.params, 0))
                    self._writer.submit(self._finish, values, RUN_STATUS[trial.state], trial.user_attrs.get("error"))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        self._writer.submit(self._log_round, dict(trial.config), dict(result["report"]))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        last = trial.last_result
        status = "FINISHED" if last["round"] == last["rounds"] else "KILLED"
        self._writer.submit(self._finish, dict(trial.config), status)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        study, number = self._stages[trial.config[STAGE]].study, trial.config[NUMBER]
        if study.has_ended(number):  # and is not begun again
            ended = study.trials()[number]
            status, reason = RUN_STATUS[ended.state], ended.user_attrs.get("error")
            self._writer.submit(self._finish, dict(trial.config), status, reason)

    def _log_round(self, values: dict[str, Any], report: dict[str, Any]) -> None:
        self._run(values).log_round(round_report_from_dict(report))

    def _finish(self, values: dict[str, Any], status: str, reason: str | None = None) -> None:
        storage = federation_config(values[FEDERATION]).storage
        folder = storage.folder / values[FOLDER]
        bring_result(folder, storage)
        result = load_result(folder, fingerprint_of(values[FEDERATION]))
        self._run(values).finish(result, status, reason=reason)

    def _run(self, values: dict[str, Any]) -> FederationRun:
        key = values[STAGE], values[NUMBER]
        if key not in self._runs:
            parent, config = self._stages[values[STAGE]].parent, federation_config(values[FEDERATION])
            self._runs[key] = parent.child(values[NUMBER], values[PARAMS], config)
        return self._runs[key]
