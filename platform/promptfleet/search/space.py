"""Entries of a search space for one key, and their extreme values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from promptfleet.errors import ConfigError

Value = int | float | str | bool | None
LARGEST_INT = 2**53  # above, not every integer is a float, which is how a study stores it
MOST_CHOICES = 1000


@dataclass(frozen=True)
class Conditional:
    """Key that is searched when other keys have one of these values, see ``promptfleet.search.conditions``."""

    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict, kw_only=True)

    def entry(self) -> dict[str, Any]:
        """Return the entry in the form of a search file."""
        return self._values() | (
            {"when": {key: list(values) for key, values in self.when.items()}} if self.when else {}
        )


@dataclass(frozen=True)
class IntRange(Conditional):
    """Integers from low to high, both included."""

    low: int
    high: int
    step: int = 1
    log: bool = False

    def extremes(self) -> tuple[Value, ...]:
        return (self.low, self.points()[-1])

    def contains(self, value: Value) -> bool:
        return _is_number(value, int) and self.low <= value <= self.high and (value - self.low) % self.step == 0

    def points(self) -> Sequence[Value]:
        """Return all values, for a grid."""
        return range(self.low, self.high + 1, self.step)

    def _values(self) -> dict[str, Any]:
        return {"int": [self.low, self.high], "step": self.step, "log": self.log}


@dataclass(frozen=True)
class FloatRange(Conditional):
    """Real numbers from low to high; ``log`` draws their logarithm evenly."""

    low: float
    high: float
    log: bool = False

    def extremes(self) -> tuple[Value, ...]:
        return (self.low, self.high)

    def contains(self, value: Value) -> bool:
        return _is_number(value, (int, float)) and self.low <= value <= self.high

    def points(self) -> None:
        """Return None: the values have no end."""

    def _values(self) -> dict[str, Any]:
        return {"float": [self.low, self.high], "log": self.log}


@dataclass(frozen=True)
class Choice(Conditional):
    """One of some values without an order."""

    values: tuple[Value, ...]

    def extremes(self) -> tuple[Value, ...]:
        return self.values

    def contains(self, value: Value) -> bool:
        return value in self.values

    def points(self) -> Sequence[Value]:
        return self.values

    def _values(self) -> dict[str, Any]:
        return {"choice": list(self.values)}


Parameter = IntRange | FloatRange | Choice
_FORMS = "{int: [low, high]}, {float: [low, high], log: true} or {choice: [a, b, ...]}"


def parse_parameter(key: str, entry: Any, *, source: str) -> Parameter:
    """Read ``{int: [1, 8]}`` and the like. Raises ConfigError naming ``source`` and ``key``."""
    where = f"{source}: space.{key}"
    kinds = [kind for kind in ("int", "float", "choice") if isinstance(entry, Mapping) and kind in entry]
    if len(kinds) != 1:
        raise ConfigError(f"{where}: got {entry!r}, should be {_FORMS}")
    kind = kinds[0]
    options = {"int": {"step", "log"}, "float": {"log"}, "choice": set()}[kind]
    unknown = sorted(set(map(str, entry)) - options - {kind, "when"})
    if unknown:
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}, should be {_FORMS}")
    parameter = _choice(entry[kind], where) if kind == "choice" else _range(kind, entry, where)
    return replace(parameter, when=_conditions(entry["when"], where)) if "when" in entry else parameter


def _conditions(entry: Any, where: str) -> dict[str, tuple[Value, ...]]:
    if not isinstance(entry, Mapping) or not entry:
        raise ConfigError(f"{where}.when: got {entry!r}, should be {{key: value}} or {{key: [value, ...]}}")
    conditions = {}
    for key, wanted in entry.items():
        values = wanted if isinstance(wanted, list) else [wanted]
        if not values or not all(isinstance(value, Value) for value in values):
            raise ConfigError(f"{where}.when.{key}: got {wanted!r}, should be a value of {key}, or a list of some")
        conditions[str(key)] = tuple(values)
    return conditions


def _choice(values: Any, where: str) -> Choice:
    if not isinstance(values, list) or not values or not all(isinstance(value, Value) for value in values):
        raise ConfigError(
            f"{where}.choice: got {values!r}, should be a list of at least one number, word, truth value or null"
        )
    if any(_is_number(value, int) and abs(value) > LARGEST_INT for value in values):
        raise ConfigError(f"{where}.choice: got {values!r}, should be within -2**53 and 2**53")
    if len(values) > MOST_CHOICES:
        raise ConfigError(f"{where}.choice: {len(values)} values, should be at most {MOST_CHOICES}")
    if len(set(values)) < len(values):  # 1, 1.0 and true are equal, and a study keeps one of them
        raise ConfigError(f"{where}.choice: a duplicate value in {values!r}")
    return Choice(tuple(values))


def _range(kind: str, entry: Mapping[str, Any], where: str) -> IntRange | FloatRange:
    bounds, log, step = entry[kind], entry.get("log", False), entry.get("step", 1)
    wanted = int if kind == "int" else (int, float)
    if isinstance(bounds, list) and any(_is_number(bound, int) and abs(bound) > LARGEST_INT for bound in bounds):
        raise ConfigError(f"{where}.{kind}: got {bounds!r}, should be within -2**53 and 2**53")
    if not isinstance(bounds, list) or len(bounds) != 2 or not all(_is_number(bound, wanted) for bound in bounds):
        raise ConfigError(f"{where}.{kind}: got {bounds!r}, should be two {kind}s [low, high]")
    low, high = bounds
    if low >= high:
        raise ConfigError(f"{where}.{kind}: low {low!r} must be below high {high!r}")
    if not isinstance(log, bool):
        raise ConfigError(f"{where}.log: got {log!r}, should be true or false")
    if log and low <= 0:
        raise ConfigError(f"{where}: a log scale needs low above 0, got {low!r}")
    if kind == "float":
        return FloatRange(float(low), float(high), log)
    if not _is_number(step, int) or step < 1 or (log and step != 1):
        raise ConfigError(f"{where}.step: got {step!r}, should be an integer of at least 1, and 1 on a log scale")
    return IntRange(low, high, step, log)


def _is_number(value: Any, kinds: type | tuple[type, ...]) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool) and value == value and abs(value) != float("inf")
