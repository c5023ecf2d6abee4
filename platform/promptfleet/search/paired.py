"""Tests of differences between pairs, and their correction for the number of tests."""

from collections.abc import Sequence

import numpy as np


def paired_test(differences: np.ndarray) -> float:
    """Return the two-sided p-value of Wilcoxon's signed-rank test; 1 if no pair differs."""
    if not np.any(differences):
        return 1.0
    from scipy.stats import wilcoxon  # takes a second to import

    return float(wilcoxon(differences, zero_method="pratt", method="asymptotic").pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Apply Holm's step-down correction: p-values that hold for all the tests together, in the given order."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted
