"""Objective of a search: a validation accuracy after each evaluated round, or a harmonic mean of several per client."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import fmean

from promptfleet.errors import ConfigError, did_you_mean
from promptfleet.federation.evaluation.scores import (
    GLOBAL,
    LOCAL,
    OTHERS,
    SERVER,
    TEST,
    VAL,
    harmonic_mean,
    set_name,
)
from promptfleet.federation.reports import RoundReport

MAIN = set_name(VAL, LOCAL)
OF_SERVER = set_name(VAL, SERVER)
KNOWN = (MAIN, *(set_name(VAL, name) for name in (GLOBAL, OTHERS, SERVER)))
_HARMONIC = re.compile(r"harmonic\((.*)\)")


@dataclass(frozen=True)
class Objective:
    """Validation sets, of which several stand for their harmonic mean per client."""

    sets: tuple[str, ...] = (MAIN,)

    @property
    def name(self) -> str:
        return self.sets[0] if len(self.sets) == 1 else f"harmonic({', '.join(self.sets)})"

    @property
    def evaluated_sets(self) -> list[str]:
        """The names of its sets that are not evaluated in each round by default."""
        return [name.removeprefix(f"{VAL}/") for name in self.sets if name != MAIN]

    def value(self, report: RoundReport, adversaries: Collection[int]) -> float | None:
        """Return the mean over the clients that do not attack; None where the round has no value."""
        if self.sets == (MAIN,):
            return report.honest_val_accuracy
        return mean_of(self.of_clients(report, adversaries))

    def of_clients(self, report: RoundReport, adversaries: Collection[int]) -> list[float | None]:
        """Return that of each client, None for those that attack or have no value; the server's alone is one value."""
        if self.sets == (OF_SERVER,):
            return [report.accuracy[OF_SERVER].mean if OF_SERVER in report.accuracy else None]
        rows = zip(*[_of_clients(report, name) for name in self.sets], strict=True)
        return [
            harmonic_mean(row) if client not in adversaries and None not in row else None
            for client, row in enumerate(rows)
        ]


def parse_objective(text: str, *, source: str) -> Objective:
    """Read ``val/global`` or ``harmonic(val/local, val/global)``. Raises ConfigError."""
    harmonic = _HARMONIC.fullmatch(text.strip())
    names = tuple(name.strip() for name in harmonic[1].split(",")) if harmonic else (text.strip(),)
    for name in names:
        if name.startswith(f"{TEST}/"):
            raise ConfigError(
                f"{source}: objective: {name} is measured on test samples: a choice by it would make the reported test "
                f"accuracy too high; use {set_name(VAL, name.removeprefix(f'{TEST}/'))}"
            )
        if name not in KNOWN:
            hint = did_you_mean(name, KNOWN) or f"there are: {', '.join(KNOWN)}"
            raise ConfigError(f"{source}: objective: there is no validation set {name!r}; {hint}")
    if len({*names}) < len(names) or (harmonic and len(names) < 2):
        raise ConfigError(f"{source}: objective: got {text!r}, should have two or more different sets")
    return Objective(names)


def objective_of(
    objective: Objective, reports: Sequence[RoundReport], adversaries: Sequence[Collection[int]]
) -> float | None:
    """Return the objective of a trial after a round of each of its federations; None if it was not evaluated."""
    return mean_of([objective.value(*one) for one in zip(reports, adversaries, strict=True)])


def mean_of(values: Sequence[float | None]) -> float | None:
    """Average what is not None; None if nothing is."""
    found = [value for value in values if value is not None]
    return fmean(found) if found else None


def _of_clients(report: RoundReport, name: str) -> Sequence[float | None]:
    """Return the accuracy of each client on a validation set; the server's is the same for all."""
    if name == MAIN:
        return report.client_val_accuracy
    if name == OF_SERVER and name in report.accuracy:
        return [report.accuracy[name].mean] * len(report.client_val_accuracy)
    return report.client_accuracy.get(name, [None] * len(report.client_val_accuracy))
