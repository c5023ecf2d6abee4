"""Axis of one searched key, scaled to 0..1: numbers by value or logarithm, choices evenly in their order."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.ticker import MaxNLocator

from promptfleet.figures.style import as_label, log_ticks, spaced_ticks
from promptfleet.trial_records import TrialRecord
from promptfleet.yaml_files import as_yaml

_DECADES = 2  # a wider range of values gets a logarithmic axis
_MOST_CHOICES = 12


@dataclass(frozen=True)
class KeyAxis:
    """Scale of a key: its choices in order, or the lowest and the highest number."""

    name: str
    choices: Sequence[str]
    low: float = 0.0
    high: float = 1.0
    log: bool = False

    @property
    def is_ordered(self) -> bool:
        """True for numbers, False for choices."""
        return not self.choices

    def place(self, value: Any) -> float:
        """Return the position of a value, 0..1; 0.5 where there is only one."""
        if self.choices:
            return self._even(self.choices.index(as_yaml(value)))
        if self.high == self.low:
            return 0.5
        low, high, at = map(math.log, (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        return (at - low) / (high - low)

    def ticks(self) -> tuple[list[float], list[str]]:
        """Return positions and texts of the ticks."""
        if self.choices:
            shown = spaced_ticks(len(self.choices), most=_MOST_CHOICES)
            return [self._even(index) for index in shown], [as_label(self.choices[index], 12) for index in shown]
        if self.high == self.low:
            return [0.5], [f"{self.low:g}"]
        if self.log:
            values = log_ticks(self.low, self.high)
        else:
            whole = isinstance(self.low, int) and isinstance(self.high, int)
            values = MaxNLocator(nbins=5, integer=whole).tick_values(self.low, self.high)
            values = [value for value in values if self.low <= value <= self.high]
        return [self.place(value) for value in values], [f"{value:g}" for value in values]

    def _even(self, index: int) -> float:
        return index / (len(self.choices) - 1) if len(self.choices) > 1 else 0.5


def key_axis(
    name: str, trials: Sequence[TrialRecord], entry: Mapping[str, Any], log_scale: Collection[str]
) -> KeyAxis | None:
    """Return the axis of a key over all that was searched, by its ``entry`` in the search file, and all trials.

    None if no trial has the key.
    """
    values = [trial.params[name] for trial in trials if name in trial.params]
    if not values:
        return None
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if not numeric or "choice" in entry:
        offered = [as_yaml(value) for value in entry.get("choice", ())]
        return KeyAxis(name, list(dict.fromkeys([*offered, *sorted({as_yaml(value) for value in values})])))
    bounds = [*values, *(entry.get("int") or entry.get("float") or ())]
    low, high = min(bounds), max(bounds)
    return KeyAxis(name, (), low, high, low > 0 and (name in log_scale or high / low > 10**_DECADES))
