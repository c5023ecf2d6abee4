"""Goals of a search, by name: objectives to optimize, and constraints that its trials have to keep."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from promptfleet.errors import ConfigError, did_you_mean
from promptfleet.search.objective import MAIN
from promptfleet.search.quantities import GROWING, QUANTITIES

Direction = Literal["maximize", "minimize"]
_DIRECTIONS: dict[str, Direction] = {"max": "maximize", "min": "minimize"}


@dataclass(frozen=True)
class Constraint:
    """A bound of one quantity of a trial after its last round; a trial that does not keep it is infeasible."""

    quantity: str
    low: float | None
    high: float | None

    def violations(self, quantities: Mapping[str, float]) -> dict[str, float]:
        """Return the excess over each bound, by name; a bound without a positive excess is kept."""
        value, found = quantities[self.quantity], {}
        if self.low is not None:
            found[f"{self.quantity} min"] = self.low - value
        if self.high is not None:
            found[f"{self.quantity} max"] = value - self.high
        return found

    def is_lost(self, quantities: Mapping[str, float]) -> bool:
        """Return True if no later round can keep it any more: a quantity that only grows is above its bound."""
        return self.quantity in GROWING and self.high is not None and quantities[self.quantity] > self.high


@dataclass(frozen=True)
class Goals:
    """Objectives by name, the first one the main one, with their directions, and constraints."""

    objectives: Mapping[str, Direction]
    constraints: tuple[Constraint, ...] = ()

    @property
    def are_several(self) -> bool:
        return len(self.objectives) > 1

    def values(self, accuracy: float, quantities: Mapping[str, float]) -> list[float]:
        """Return the value of each objective of a trial."""
        _, *others = self.objectives
        return [accuracy, *(quantities[name] for name in others)]

    def violations(self, quantities: Mapping[str, float]) -> dict[str, float]:
        """Return the excess over each bound of each constraint."""
        return {name: by for one in self.constraints for name, by in one.violations(quantities).items()}

    def are_lost(self, quantities: Mapping[str, float]) -> bool:
        """Return True if a trial can never be feasible any more, which is known before its next round."""
        return any(one.is_lost(quantities) for one in self.constraints)


def parse_goals(
    objectives: Mapping[str, Any] | None, constraint: Mapping[str, Any] | None, *, main: str = MAIN, source: str
) -> Goals:
    """Read ``{val/local: max, bytes_up: min}`` and ``{bytes_per_round: {max: 200000}}``. Raises ConfigError.

    The first objective is ``main``.
    """
    directions: dict[str, Direction] = {}
    for name, word in (objectives or {main: "max"}).items():
        _check_name(name, (main, *QUANTITIES), f"{source}: objectives")
        if word not in _DIRECTIONS:
            raise ConfigError(f"{source}: objectives.{name}: got {word!r}, should be max or min")
        directions[name] = _DIRECTIONS[word]
    if next(iter(directions)) != main or directions[main] != "maximize":
        raise ConfigError(f"{source}: objectives: the first should be {main}: max, which is the objective")
    return Goals(directions, tuple(_constraint(name, entry, source) for name, entry in (constraint or {}).items()))


def _constraint(name: str, entry: Any, source: str) -> Constraint:
    _check_name(name, QUANTITIES, f"{source}: constraint")
    bounds = entry if isinstance(entry, Mapping) else {}
    numbers = all(isinstance(bound, int | float) and not isinstance(bound, bool) for bound in bounds.values())
    if not bounds or not set(bounds) <= {"min", "max"} or not numbers:
        raise ConfigError(f"{source}: constraint.{name}: got {entry!r}, should be {{min: number}} or {{max: number}}")
    low, high = bounds.get("min"), bounds.get("max")
    if low is not None and high is not None and low > high:
        raise ConfigError(f"{source}: constraint.{name}: min {low} must not be above max {high}")
    return Constraint(name, low, high)


def _check_name(name: str, known: Any, where: str) -> None:
    if name not in known:
        hint = did_you_mean(str(name), known) or f"there are: {', '.join(known)}"
        raise ConfigError(f"{where}: there is no quantity {name!r}; {hint}")
