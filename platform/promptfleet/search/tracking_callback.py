"""What Tune tells about trials, written to MLflow by a background thread of the driver."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from ray import tune
from ray.tune.experiment import Trial

from promptfleet.federation.reports import round_report_from_dict
from promptfleet.federation.stored import load_result
from promptfleet.search.folders import trial_folder
from promptfleet.search.spec import SweepSpec
from promptfleet.search.trial import NUMBER, PARAMS
from promptfleet.search.tune_adapters import NotSaved
from promptfleet.tracking.federation_run import FederationRun
from promptfleet.tracking.store import TrackingStore
from promptfleet.tracking.sweep_run import SweepRun
from promptfleet.tracking.writer import BackgroundWriter

RUN_STATUS = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED", TrialState.FAIL: "FAILED"}


class TrackTrials(NotSaved, tune.Callback):
    """A nested run per trial: a batch of metrics per round, and everything else when it ends."""

    def __init__(self, spec: SweepSpec, folder: Path, sweep: SweepRun, writer: BackgroundWriter):
        self._spec, self._folder, self._sweep, self._writer = spec, folder, sweep, writer
        self._runs: dict[int, FederationRun] = {}

    def catch_up(self, store: TrackingStore, trials: Sequence[FrozenTrial]) -> None:
        """Write what trials gave that had ended before a sweep was killed, and had not reached MLflow yet."""
        written = {run.tags.get("trial") for run in store.children(self._sweep.id) if run.status != "RUNNING"}
        for trial in trials:
            if trial.state.is_finished() and str(trial.number) not in written:
                values = {NUMBER: trial.number, PARAMS: dict(trial.params)}
                self._writer.submit(self._finish, values, RUN_STATUS[trial.state], trial.user_attrs.get("error"))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        self._writer.submit(self._log_round, dict(trial.config), dict(result["report"]))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        config = self._spec.config(trial.config[PARAMS])
        status = "FINISHED" if trial.last_result["round"] == config.rounds else "KILLED"
        self._writer.submit(self._finish, dict(trial.config), status)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        reason = str(trial.get_error() or "").strip().splitlines()
        self._writer.submit(self._finish, dict(trial.config), "FAILED", reason[-1] if reason else None)

    def _log_round(self, values: dict[str, Any], report: dict[str, Any]) -> None:
        self._run(values).log_round(round_report_from_dict(report))

    def _finish(self, values: dict[str, Any], status: str, reason: str | None = None) -> None:
        config = self._spec.config(values[PARAMS])
        result = load_result(trial_folder(self._folder, values[NUMBER]), config.fingerprint())
        self._run(values).finish(result, status, reason=reason)

    def _run(self, values: dict[str, Any]) -> FederationRun:
        number = values[NUMBER]
        if number not in self._runs:
            self._runs[number] = self._sweep.child(number, values[PARAMS], self._spec.config(values[PARAMS]))
        return self._runs[number]
