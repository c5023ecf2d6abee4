"""Calibration: whether a model that is 80 % sure is right in 80 % of the cases.

Source: Guo et al., "On Calibration of Modern Neural Networks" (arXiv:1706.04599) for ECE and MCE; Nixon et al.,
"Measuring Calibration in Deep Learning" (arXiv:1904.01685) for bins of equal counts (ACE), here of the highest
probability alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
    largest gap, ``ace`` is as ``ece`` with bins of equal counts. ``bins`` are those of equal width that are not empty.
    """

    ece: float
    mce: float
    ace: float
    bins: Sequence[Bin]
    client_means: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Certainty:
    """Confidence of one client's predictions, the highest probability of each, and whether each is right."""

    confidence: Sequence[float]
    right: Sequence[bool]


def calibration(parts: Sequence[Certainty]) -> Calibration:
    """Return the errors of the predictions of several clients, pooled, and the means over clients."""
    each = [calibration_errors(part) for part in parts]
    means = {name: fmean(errors[name] for errors in each) for name in each[0]}
    pooled = Certainty(
        [value for part in parts for value in part.confidence], [value for part in parts for value in part.right]
    )
    return Calibration(**calibration_errors(pooled), bins=_equal_width(pooled), client_means=means)


def calibration_errors(one: Certainty) -> dict[str, float]:
    """Return the errors of one client's predictions; of a small test part they are too large rather than too small."""
    equal_width, equal_count = _equal_width(one), _equal_count(one)
    return {
        "ece": _weighted_gap(equal_width),
        "mce": max(abs(some.accuracy - some.confidence) for some in equal_width),
        "ace": _weighted_gap(equal_count),
    }


def _weighted_gap(bins: Sequence[Bin]) -> float:
    total = sum(some.count for some in bins)
    return sum(some.count / total * abs(some.accuracy - some.confidence) for some in bins)


def _equal_width(one: Certainty) -> list[Bin]:
    """Return the bins (0, 0.1], (0.1, 0.2], ..., without empty ones."""
    index = np.clip(np.ceil(np.array(one.confidence) * BINS).astype(int) - 1, 0, BINS - 1)
    return [_bin(one, np.flatnonzero(index == number)) for number in range(BINS) if (index == number).any()]


def _equal_count(one: Certainty) -> list[Bin]:
    order = np.argsort(one.confidence, kind="stable")
    return [_bin(one, part) for part in np.array_split(order, BINS) if len(part)]


def _bin(one: Certainty, chosen: np.ndarray) -> Bin:
    confidence, right = np.array(one.confidence)[chosen], np.array(one.right)[chosen]
    return Bin(len(chosen), float(confidence.mean()), float(right.mean()))
