"""Differences to the best method, on numbers that can be redone by hand."""

import pytest

from promptfleet.comparison.over_seeds import OverSeeds
from promptfleet.comparison.significance import differences_to_best


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


def test_a_single_seed_has_no_deviation():
    assert OverSeeds.of([0.3]).std == 0.0
    assert OverSeeds.of([1.0, 3.0]).std == pytest.approx(2**0.5)
