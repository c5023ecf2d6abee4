"""The paired test and its correction, on numbers that can be redone by hand."""

import numpy as np
import pytest

from promptfleet.comparison.over_seeds import OverSeeds
from promptfleet.comparison.significance import differences_to_best
from promptfleet.search.paired import holm, paired_test


def test_differences_are_paired_by_seed_and_client():
    first, second = differences_to_best(
        {
            "worse": {0: [0.5, 0.5], 1: [0.6, 0.8]},
            "best": {0: [0.9, 0.5], 1: [0.8, 0.8]},
            "partial": {1: [0.9, 0.5]},  # failed with seed 0
        }
    )
    assert (first.method, first.best, first.pairs, first.wins, first.losses) == ("worse", "best", 4, 2, 0)
    assert first.gap.mean == pytest.approx((0.2 + 0.1) / 2)
    assert first.gap.std == pytest.approx(0.1 / 2**0.5)
    assert (second.method, second.pairs, second.wins, second.losses) == ("partial", 2, 1, 1)


def test_the_sign_of_every_pair_counts():
    """All of n differences positive: W = 0, so z = -sqrt(n (n + 1) (2n + 1) / 24) n (n + 1) / 4 ..."""
    n = 10
    differences = np.arange(1, n + 1) / 100
    z = (n * (n + 1) / 4) / np.sqrt(n * (n + 1) * (2 * n + 1) / 24)
    from math import erfc, sqrt

    assert paired_test(differences) == pytest.approx(erfc(z / sqrt(2)))
    assert paired_test(-differences) == paired_test(differences)
    assert paired_test(np.array([0.1, -0.1] * 5)) == pytest.approx(1)


def test_nothing_differs():
    assert paired_test(np.zeros(5)) == 1


def test_holm_by_hand():
    """Sorted 0.01, 0.02, 0.03 times 3, 2, 1, never falling."""
    assert holm([0.03, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_single_seed_has_no_deviation():
    assert OverSeeds.of([0.3]).std == 0.0
    assert OverSeeds.of([1.0, 3.0]).std == pytest.approx(2**0.5)
