"""Progress of a sweep: on a terminal a line that is rewritten, elsewhere a line now and then."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from optuna.trial import TrialState
from ray import tune
from ray.tune.experiment import Trial

from promptfleet.search.stage import NUMBER, PARAMS, STAGE, Stage
from promptfleet.search.trial import OBJECTIVE
from promptfleet.search.tune_adapters import NotSaved
from promptfleet.terminal import LiveLine
from promptfleet.trial_records import format_value

QUIET_SECONDS = 5.0


class SweepProgress(NotSaved, tune.Callback):
    """Counter of trials and rounds that writes to stderr. Trials that ended before count, too."""

    def __init__(self, stages: Sequence[Stage], stream: TextIO = sys.stderr):
        self._out = LiveLine(stream)
        self._running: dict[tuple[str, int], float] = {}  # share of the rounds that were run
        self._best: dict[str, tuple[float, int]] = {}
        self._studies = {stage.name: stage.study for stage in stages}
        trials = [(stage, trial) for stage in stages for trial in stage.study.trials()]
        ended = [(stage.name, trial) for stage, trial in trials if stage.study.has_ended(trial.number)]
        for stage, trial in ended:
            if trial.state == TrialState.COMPLETE:
                self._note(stage, trial.number, trial.values[0])
        self._done = self._done_before = len(ended)
        self._pruned = sum(trial.state == TrialState.PRUNED for _, trial in ended)
        self._failed = sum(trial.state == TrialState.FAIL for _, trial in ended)
        self._trials = self._done + sum(stage.study.trials_left() for stage in stages)
        self._started = self._last_line = time.monotonic()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._running[_key(trial)] = 0.0
        self._say(f"{_label(trial)} starts   {format_params(trial.config[PARAMS])}")
        self._out.rewrite(self._counts(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        done, rounds, value = result["round"], result["rounds"], result[OBJECTIVE]
        self._running[_key(trial)] = done / rounds
        if done == rounds:
            self._note(*_key(trial), value)
        text = f"{_label(trial)} round {done}/{rounds}  val {_shown(value)}"
        self._out.rewrite(f"{text}   {self._counts(trial)}")
        if not self._out.is_live and time.monotonic() - self._last_line >= QUIET_SECONDS:
            self._say(f"{text}   {self._counts(trial)}")

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        last = trial.last_result
        pruned = last["round"] < last["rounds"]
        self._running.pop(_key(trial), None)
        self._done += 1
        self._pruned += pruned
        how = f"stopped early after round {last['round']}" if pruned else "complete"
        self._ended(f"{_label(trial)} {how}  val {_shown(last[OBJECTIVE])}", trial)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._running.pop(_key(trial), None)
        stage, number = _key(trial)
        if not self._studies[stage].has_ended(number):
            self._say(f"{_label(trial)} failed; it starts again after its last round")
            return
        self._done += 1
        self._failed += 1
        self._ended(f"{_label(trial)} FAILED: {self._studies[stage].why_failed(number)}", trial)

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        self._out.clear()

    def _note(self, stage: str, number: int, value: float) -> None:
        """Keep the best value of each stage, of equals the first."""
        if stage not in self._best or value > self._best[stage][0]:
            self._best[stage] = (value, number)

    def _ended(self, text: str, trial: Trial) -> None:
        """Write how a trial ended. On a terminal the counts are in the line below, which is rewritten."""
        self._say(text if self._out.is_live else f"{text}   {self._counts(trial)}")
        self._out.rewrite(self._counts(trial))

    def _counts(self, trial: Trial) -> str:
        """Return the progress of all and the best of the trial's stage, the most important first."""
        stage = trial.config[STAGE]
        value, number = self._best.get(stage, (None, None))
        best = "best -" if value is None else f"best {value:.3f} ({stage} {number})"
        counts = f"{self._done}/{self._trials} done, {self._time_left()} left   {best}"
        failed = f", {self._failed} failed" if self._failed else ""
        return f"{counts}   {len(self._running)} running, {self._pruned} stopped early{failed}"

    def _time_left(self) -> str:
        progress = self._done - self._done_before + sum(self._running.values())
        if progress <= 0:
            return "?"
        elapsed = time.monotonic() - self._started
        return format_seconds(elapsed / progress * max(0.0, self._trials - self._done_before - progress))

    def _say(self, text: str) -> None:
        self._last_line = time.monotonic()
        self._out.say(text)


def _shown(value: float | None) -> str:
    """Return the objective of a round; a dash where it was not evaluated."""
    return "-" if value is None else f"{value:.3f}"


def _key(trial: Trial) -> tuple[str, int]:
    return trial.config[STAGE], trial.config[NUMBER]


def _label(trial: Trial) -> str:
    return f"{trial.config[STAGE]} {trial.config[NUMBER]:>3}"


def format_params(params: Mapping[str, Any]) -> str:
    """Return ``experts=3  gating_temperature=0.0421``."""
    return "  ".join(f"{key}={format_value(value)}" for key, value in params.items())


def format_seconds(seconds: float) -> str:
    """Return ``2m05s``; hours only if there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
