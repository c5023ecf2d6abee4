"""Calibration: whether a model that is 80 % sure is right in 80 % of the cases.

Source: Guo et al., "On Calibration of Modern Neural Networks" (arXiv:1706.04599) for ECE and MCE; Nixon et al.,
"Measuring Calibration in Deep Learning" (arXiv:1904.01685) for bins of equal counts (ACE), here of the highest
probability alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from statistics import fmean

import numpy as np

from promptfleet.strict_json import Count

BINS = 10


@dataclass(frozen=True)
class Bin:
    """Predictions of similar confidence: their number, their mean confidence, and the share that is right."""

    count: Count
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """Calibration errors in 0..1 of all predictions together, their means over clients, and a reliability diagram.

    ``ece`` weighs the gap between accuracy and confidence of 10 bins of equal width by their counts, ``mce`` is the
    largest gap, ``ace`` is as ``ece`` with bins of equal counts, None of tallies, which lack the order of the
    predictions. ``bins`` are those of equal width that are not empty.
    """

    ece: float
    mce: float
    ace: float | None
    bins: Sequence[Bin]
    client_means: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Certainty:
    """Confidence of one client's predictions, the highest probability of each, and whether each is right."""

    confidence: Sequence[float]
    right: Sequence[bool]


@dataclass(frozen=True)
class Tally:
    """Predictions of one model in bins of equal width: their numbers, the sums of their confidence, the right ones.

    Its size does not depend on the number of predictions. Those of several parts add up.
    """

    counts: Sequence[Count]
    confidence: Sequence[float]
    right: Sequence[Count]

    @classmethod
    def of(cls, confidence: np.ndarray, right: np.ndarray) -> "Tally":
        """Count predictions: their confidence in 0..1 and whether each is right, both ``[predictions]``."""
        index = _bin_numbers(confidence)
        sums = (np.bincount(index, weights, minlength=BINS) for weights in (None, confidence, right))
        counts, sure, correct = (of_bins.tolist() for of_bins in sums)
        return cls(counts, sure, [int(number) for number in correct])

    @classmethod
    def empty(cls) -> "Tally":
        """Return the tally of no predictions."""
        return cls([0] * BINS, [0.0] * BINS, [0] * BINS)

    def __add__(self, other: "Tally") -> "Tally":
        columns = ((self.counts, other.counts), (self.confidence, other.confidence), (self.right, other.right))
        return Tally(*([one + more for one, more in zip(*pair, strict=True)] for pair in columns))

    def bins(self) -> list[Bin]:
        """Return the bins that are not empty."""
        columns = zip(self.counts, self.confidence, self.right, strict=True)
        return [Bin(count, sure / count, right / count) for count, sure, right in columns if count]

    def errors(self) -> dict[str, float]:
        """Return ``ece`` and ``mce`` of the predictions."""
        return _equal_width_errors(self.bins())


def calibration_of_tallies(parts: Sequence[Tally]) -> Calibration:
    """Return the errors of the predictions of several clients, pooled, and the means over clients, without ``ace``."""
    pooled = reduce(add, parts)
    return Calibration(
        **pooled.errors(), ace=None, bins=pooled.bins(), client_means=_means([one.errors() for one in parts])
    )


def calibration(parts: Sequence[Certainty]) -> Calibration:
    """Return the errors of the predictions of several clients, pooled, and the means over clients."""
    means = _means([calibration_errors(part) for part in parts])
    pooled = Certainty(
        [value for part in parts for value in part.confidence], [value for part in parts for value in part.right]
    )
    return Calibration(**calibration_errors(pooled), bins=_equal_width(pooled), client_means=means)


def calibration_errors(one: Certainty) -> dict[str, float]:
    """Return the errors of one client's predictions; of a small test part they are too large rather than too small."""
    return {**_equal_width_errors(_equal_width(one)), "ace": _weighted_gap(_equal_count(one))}


def _equal_width_errors(bins: Sequence[Bin]) -> dict[str, float]:
    return {"ece": _weighted_gap(bins), "mce": max(abs(some.accuracy - some.confidence) for some in bins)}


def _means(each: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: fmean(errors[name] for errors in each) for name in each[0]}


def _weighted_gap(bins: Sequence[Bin]) -> float:
    total = sum(some.count for some in bins)
    return sum(some.count / total * abs(some.accuracy - some.confidence) for some in bins)


def _equal_width(one: Certainty) -> list[Bin]:
    """Return the bins of equal width, without empty ones."""
    index = _bin_numbers(np.array(one.confidence))
    return [_bin(one, np.flatnonzero(index == number)) for number in range(BINS) if (index == number).any()]


def _bin_numbers(confidence: np.ndarray) -> np.ndarray:
    """Return for each prediction the number of its bin: (0, 0.1], (0.1, 0.2], ..."""
    return np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)


def _equal_count(one: Certainty) -> list[Bin]:
    order = np.argsort(one.confidence, kind="stable")
    return [_bin(one, part) for part in np.array_split(order, BINS) if len(part)]


def _bin(one: Certainty, chosen: np.ndarray) -> Bin:
    confidence, right = np.array(one.confidence)[chosen], np.array(one.right)[chosen]
    return Bin(len(chosen), float(confidence.mean()), float(right.mean()))
