"""Finalists: the best trials of a search, run again in full with fresh seeds, and the winner among them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isclose, sqrt
from statistics import fmean, stdev
from typing import Annotated

import numpy as np
from pydantic import Field

from promptfleet.config import Section
from promptfleet.search.paired import holm, paired_test

Seed = Annotated[int, Field(ge=0)]
NOISE = 0.05  # differences of a larger p are noise


class Finalists(Section):
    """Best trials of a search, which are run again in full and with fresh seeds."""

    trials: int = Field(0, ge=0, le=20, description="number of finalists, 0 for none")
    seeds: list[Seed] = Field(default_factory=list, description="seeds that each of them is run with")


@dataclass(frozen=True)
class Finalist:
    """A trial that was run again: its number, and its accuracies over the fresh seeds.

    ``val_accuracy`` is their mean; ``interval`` is half of its 95 % confidence interval (Student's t over seeds).
    ``gap`` is its distance below the winner's mean, ``p`` of the paired test against the winner over all pairs of seed
    and client, or over seeds where the server has one value, with Holm's correction; None for the winner.
    """

    number: int
    val_accuracy: float
    interval: float
    test_accuracy: float
    gap: float = 0.0
    p: float | None = None

    @property
    def is_noise(self) -> bool:
        """True if its difference from the winner may be chance."""
        return self.p is not None and self.p >= NOISE


def rank_finalists(
    clients: Mapping[int, Mapping[int, Sequence[float]]], test_accuracy: Mapping[int, Sequence[float]]
) -> list[Finalist]:
    """Return the finalists, the highest validation mean first, of equals the one that comes first in ``clients``.

    clients: validation accuracy of each client (of the server alone: one), NaN without one, by trial and seed;
    test_accuracy: by trial.
    """
    means = {number: [float(np.nanmean(values)) for values in seeds.values()] for number, seeds in clients.items()}
    order = sorted(means, key=lambda number: -fmean(means[number]))
    winner, *others = order
    p_values = holm([paired_test(_differences(clients[winner], clients[other])) for other in others])
    best = fmean(means[winner])
    return [
        Finalist(
            number=number,
            val_accuracy=fmean(means[number]),
            interval=_half_interval(means[number]),
            test_accuracy=fmean(test_accuracy[number]),
            gap=best - fmean(means[number]),
            p=p,
        )
        for number, p in zip(order, [None, *p_values], strict=True)
    ]


def tied_finalists(finalists: Sequence[Finalist]) -> list[int]:
    """Return the numbers of those whose mean is the winner's, without the winner, which comes first."""
    return [one.number for one in finalists[1:] if isclose(one.gap, 0.0, abs_tol=1e-9)]


def _differences(one: Mapping[int, Sequence[float]], other: Mapping[int, Sequence[float]]) -> np.ndarray:
    """Return the differences over the pairs of seed and client that both have."""
    pairs = [np.subtract(one[seed], other[seed]) for seed in one if seed in other]
    differences = np.concatenate(pairs or [np.zeros(1)])
    return differences[~np.isnan(differences)]


def _half_interval(values: Sequence[float]) -> float:
    if len(values) < 2:
        return 0.0
    from scipy.stats import t  # takes a second to import

    return float(t.ppf(0.975, len(values) - 1)) * stdev(values) / sqrt(len(values))
