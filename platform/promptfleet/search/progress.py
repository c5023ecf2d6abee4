"""What a sweep says while it runs: on a terminal a line that is rewritten, elsewhere a line now and then."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from optuna.trial import TrialState
from ray import tune
from ray.tune.experiment import Trial

from promptfleet.escaping import printable
from promptfleet.search.stage import NUMBER, PARAMS, STAGE, Stage
from promptfleet.search.trial import OBJECTIVE
from promptfleet.search.tune_adapters import NotSaved
from promptfleet.tracking.sweep_run import format_value

QUIET_SECONDS = 5.0


class SweepProgress(NotSaved, tune.Callback):
    """Counts trials and rounds and writes to stderr. Trials that ended before an earlier start count as done."""

    def __init__(self, stages: Sequence[Stage], stream: TextIO = sys.stderr):
        self._stream = stream
        self._running: dict[tuple[str, int], float] = {}  # share of the rounds that were run
        self._best: dict[str, tuple[float, int]] = {}
        self._done = self._pruned = self._failed = 0
        self._studies = {stage.name: stage.study for stage in stages}
        for stage in stages:
            ended = [trial for trial in stage.study.trials() if trial.state.is_finished()]
            self._done += len(ended)
            for trial in ended:
                if trial.state == TrialState.COMPLETE:
                    self._note(stage.name, trial.number, trial.value)
        self._trials = self._done + sum(stage.study.trials_left() for stage in stages)
        self._started = self._last_line = time.monotonic()
        self._done_before = self._done
        self._live = stream.isatty()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._running[_key(trial)] = 0.0
        self._line(f"{_label(trial)} starts   {format_params(trial.config[PARAMS])}")

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        done, rounds, value = result["round"], result["rounds"], result[OBJECTIVE]
        self._running[_key(trial)] = done / rounds
        if done == rounds:
            self._note(*_key(trial), value)
        text = f"{_label(trial)} round {done}/{rounds}  val {value:.3f}  {self._summary(trial)}"
        if self._live:
            self._rewrite(text)
        elif time.monotonic() - self._last_line >= QUIET_SECONDS:
            self._line(text)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        last = trial.last_result
        pruned = last["round"] < last["rounds"]
        self._running.pop(_key(trial), None)
        self._done += 1
        self._pruned += pruned
        how = f"stopped early after round {last['round']}" if pruned else "complete"
        self._line(f"{_label(trial)} {how}  val {last[OBJECTIVE]:.3f}  {self._summary(trial)}")

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._running.pop(_key(trial), None)
        stage, number = _key(trial)
        if not self._studies[stage].has_ended(number):
            self._line(f"{_label(trial)} failed, see {trial.error_file}; it is begun again after its last round")
            return
        self._done += 1
        self._failed += 1
        self._line(f"{_label(trial)} FAILED, see {trial.error_file}  {self._summary(trial)}")

    def _note(self, stage: str, number: int, value: float) -> None:
        """Keep the best of each stage, of equals the first."""
        if stage not in self._best or value > self._best[stage][0]:
            self._best[stage] = (value, number)

    def _summary(self, trial: Trial) -> str:
        stage = trial.config[STAGE]
        value, number = self._best.get(stage, (None, None))
        best = "best -" if value is None else f"best {value:.3f} ({stage} {number})"
        counts = f"{self._done}/{self._trials} done, {len(self._running)} running, {self._pruned} stopped early"
        failed = f", {self._failed} failed" if self._failed else ""
        return f"{best}   {counts}{failed}   {self._time_left()} left"

    def _time_left(self) -> str:
        progress = self._done - self._done_before + sum(self._running.values())
        if progress <= 0:
            return "?"
        elapsed = time.monotonic() - self._started
        return format_seconds(elapsed / progress * max(0.0, self._trials - self._done_before - progress))

    def _line(self, text: str) -> None:
        self._last_line = time.monotonic()
        clear = "\r\x1b[K" if self._live else ""
        print(f"{clear}{printable(text)}", file=self._stream, flush=True)

    def _rewrite(self, text: str) -> None:
        print(f"\r\x1b[K{printable(text)}", end="", file=self._stream, flush=True)


def _key(trial: Trial) -> tuple[str, int]:
    return trial.config[STAGE], trial.config[NUMBER]


def _label(trial: Trial) -> str:
    return f"{trial.config[STAGE]} {trial.config[NUMBER]:>3}"


def format_params(params: Mapping[str, Any]) -> str:
    """``experts=3  gating_temperature=0.0421``"""
    return "  ".join(f"{key}={format_value(value)}" for key, value in params.items())


def format_seconds(seconds: float) -> str:
    """``2m05s``; hours only where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
