"""Numbers of a method with several seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev


@dataclass(frozen=True)
class OverSeeds:
    """Mean and sample standard deviation (n - 1 below; 0 of one seed) of a number, and the number of each seed."""

    mean: float
    std: float
    values: Sequence[float]

    @classmethod
    def of(cls, values: Sequence[float]) -> "OverSeeds":
        return cls(fmean(values), stdev(values) if len(values) > 1 else 0.0, list(values))
