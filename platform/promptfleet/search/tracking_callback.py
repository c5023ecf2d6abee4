"""Records of Tune's trials in MLflow, written by a background thread of the driver."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.trial import TrialState
from ray import tune
from ray.tune.experiment import Trial

from promptfleet.config import StorageConfig
from promptfleet.federation.checkpoints.folder import bring_result, load_result, load_summary
from promptfleet.federation.reports import RoundReport
from promptfleet.search.stage import FEDERATION, FOLDER, NUMBER, PARAMS, STAGE, Stage
from promptfleet.search.study import Proposal
from promptfleet.search.trial import OBJECTIVE
from promptfleet.search.tune_adapters import NotSaved
from promptfleet.tracking.federation_run import FIGURES_TAG, TO_BE_DRAWN, EndStatus, FederationRun
from promptfleet.tracking.store import TrackingStore
from promptfleet.tracking.writer import BackgroundWriter

BATCH_S = 3.0
RUN_STATUS = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED", TrialState.FAIL: "FAILED"}


class TrackTrials(NotSaved, tune.Callback):
    """Nested run per trial: its rounds in batches, everything else when it ends, and figures when there is time.

    A batch has the rounds of a few seconds: each write costs the driver as much time as a short round.
    """

    def __init__(self, stages: Sequence[Stage], writer: BackgroundWriter):
        self._stages = {stage.name: stage for stage in stages}
        self._writer = writer
        self._runs: dict[tuple[str, int], FederationRun] = {}
        self._waiting: dict[tuple[str, int], tuple[dict[str, Any], list[RoundReport]]] = {}  # by trial, to be written
        self._passed_on = float("-inf")  # when the last batch was

    def catch_up(self, store: TrackingStore) -> None:
        """Write results of trials that ended before a sweep was killed and had not reached MLflow."""
        for stage in self._stages.values():
            ended = store.ended_children(stage.parent.id)
            written = {tags.get("trial") for tags in ended if tags.get(FIGURES_TAG) != TO_BE_DRAWN}
            for trial in stage.study.trials():
                if stage.study.has_ended(trial.number) and str(trial.number) not in written:
                    values = stage.trial(Proposal(trial.number, trial.params, 0))
                    value = trial.values[0] if trial.values else None
                    reason = trial.user_attrs.get("error")
                    self._writer.submit(self._finish, values, RUN_STATUS[trial.state], reason, value)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        _, reports = self._waiting.setdefault(_key(trial.config), (dict(trial.config), []))
        reports.append(result["report"])
        if time.monotonic() - self._passed_on >= BATCH_S:
            self._pass_on()

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        last = trial.last_result
        status = "FINISHED" if last["round"] == last["rounds"] else "KILLED"
        self._writer.submit(self._finish, dict(trial.config), status, None, last[OBJECTIVE])

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        study, number = self._stages[trial.config[STAGE]].study, trial.config[NUMBER]
        if study.has_ended(number):  # and does not start again
            ended = study.trials()[number]
            status, reason = RUN_STATUS[ended.state], ended.user_attrs.get("error")
            self._writer.submit(self._finish, dict(trial.config), status, reason)

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        self._pass_on()

    def _pass_on(self) -> None:
        """Have the waiting rounds of all trials written."""
        self._passed_on = time.monotonic()
        for values, reports in list(self._waiting.values()):
            if reports:
                self._writer.submit(self._log_rounds, values)

    def _log_rounds(self, values: dict[str, Any]) -> None:
        """Write all reports of a trial so far, for which further jobs may be waiting."""
        _, reports = self._waiting.get(_key(values), (values, []))
        count = len(reports)
        if count:
            self._run(values).log_rounds(reports[:count])
            del reports[:count]

    def _finish(
        self, values: dict[str, Any], status: EndStatus, reason: str | None = None, value: float | None = None
    ) -> None:
        folder, storage = _folder(values)
        bring_result(folder, storage)
        result = load_result(folder, values[FEDERATION].fingerprint())
        if result is None:
            self._log_rounds(values)
        self._run(values).end(result, status, reason=reason, objective=value)
        self._waiting.pop(_key(values), None)
        self._writer.submit_late(self._draw, values, status, reason)

    def _draw(self, values: dict[str, Any], status: EndStatus, reason: str | None) -> None:
        """Draw from the result on disk, since the results of many trials would not fit into memory; forget the run."""
        result = load_summary(_folder(values)[0], values[FEDERATION].fingerprint())
        self._run(values).draw(result, status, reason=reason)
        del self._runs[_key(values)]

    def _run(self, values: dict[str, Any]) -> FederationRun:
        key = _key(values)
        if key not in self._runs:
            parent, config = self._stages[values[STAGE]].parent, values[FEDERATION]
            self._runs[key] = parent.child(values[NUMBER], values[PARAMS], config)
        return self._runs[key]


def _key(values: Mapping[str, Any]) -> tuple[str, int]:
    return values[STAGE], values[NUMBER]


def _folder(values: Mapping[str, Any]) -> tuple[Path, StorageConfig]:
    storage = values[FEDERATION].storage
    return storage.folder / values[FOLDER], storage
