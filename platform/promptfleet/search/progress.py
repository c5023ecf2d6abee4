"""What a sweep says while it runs: on a terminal a line that is rewritten, elsewhere a line now and then."""

import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from ray import tune
from ray.tune.experiment import Trial

from promptfleet.search.trial import NUMBER, OBJECTIVE, PARAMS
from promptfleet.search.tune_adapters import NotSaved
from promptfleet.tracking.sweep_run import format_value

QUIET_SECONDS = 5.0


class SweepProgress(NotSaved, tune.Callback):
    """Counts trials and rounds and writes to stderr. ``finished`` trials of an earlier start count as done."""

    def __init__(self, trials: int, rounds: int, finished: Mapping[int, float | None], stream: TextIO = sys.stderr):
        self._trials, self._rounds, self._stream = trials, rounds, stream
        self._done, self._pruned, self._failed = len(finished), 0, 0
        self._running: dict[int, int] = {}
        self._best: tuple[float, int] | None = max(
            ((value, number) for number, value in finished.items() if value is not None), default=None
        )
        self._started = self._last_line = time.monotonic()
        self._done_before = self._done
        self._live = stream.isatty()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        number = trial.config[NUMBER]
        self._running[number] = 0
        self._line(f"trial {number:>3} starts   {format_params(trial.config[PARAMS])}")

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        number, value = trial.config[NUMBER], result[OBJECTIVE]
        self._running[number] = result["round"]
        if result["round"] == self._rounds and (self._best is None or value > self._best[0]):
            self._best = (value, number)
        text = f"trial {number:>3} round {result['round']}/{self._rounds}  val {value:.3f}  {self._summary()}"
        if self._live:
            self._rewrite(text)
        elif time.monotonic() - self._last_line >= QUIET_SECONDS:
            self._line(text)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        number, last = trial.config[NUMBER], trial.last_result
        pruned = last["round"] < self._rounds
        self._running.pop(number, None)
        self._done += 1
        self._pruned += pruned
        how = f"stopped early after round {last['round']}" if pruned else "complete"
        self._line(f"trial {number:>3} {how}  val {last[OBJECTIVE]:.3f}  {self._summary()}")

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._running.pop(trial.config[NUMBER], None)
        self._done += 1
        self._failed += 1
        self._line(f"trial {trial.config[NUMBER]:>3} FAILED, see {trial.error_file}  {self._summary()}")

    def _summary(self) -> str:
        best = f"best {self._best[0]:.3f} (trial {self._best[1]})" if self._best else "best -"
        counts = f"{self._done}/{self._trials} done, {len(self._running)} running, {self._pruned} stopped early"
        failed = f", {self._failed} failed" if self._failed else ""
        return f"{best}   {counts}{failed}   {self._time_left()} left"

    def _time_left(self) -> str:
        progress = self._done - self._done_before + sum(self._running.values()) / self._rounds
        if progress <= 0:
            return "?"
        elapsed = time.monotonic() - self._started
        return format_seconds(elapsed / progress * max(0.0, self._trials - self._done_before - progress))

    def _line(self, text: str) -> None:
        self._last_line = time.monotonic()
        clear = "\r\x1b[K" if self._live else ""
        print(f"{clear}{text}", file=self._stream, flush=True)

    def _rewrite(self, text: str) -> None:
        print(f"\r\x1b[K{text}", end="", file=self._stream, flush=True)


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
