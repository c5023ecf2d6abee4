"""The paired test and its correction, on numbers that can be redone by hand."""

from itertools import product
from math import erfc, sqrt

import numpy as np
import pytest
from scipy.stats import rankdata, wilcoxon

from promptfleet.search.paired import MOST_EXACT, holm, paired_test


@pytest.mark.parametrize("steps", [[1, 2, 3, 4, 5], [1, 1, 1, 1, 1]])
def test_five_pairs_that_all_point_one_way_are_one_of_two_in_thirty_two(steps):
    differences = np.array(steps) / 100
    assert paired_test(differences) == paired_test(-differences) == 2 / 2**5
    assert (paired_test(-differences, "less"), paired_test(differences, "less")) == (1 / 2**5, 1.0)


@pytest.mark.parametrize("pairs", [6, 13, MOST_EXACT])
def test_few_pairs_without_ties_have_the_exact_distribution(pairs):
    differences = np.random.default_rng(pairs).normal(0.3, 1.0, pairs)
    for alternative in ("two-sided", "less"):
        known = wilcoxon(differences, method="exact", alternative=alternative).pvalue
        assert paired_test(differences, alternative) == pytest.approx(known, rel=1e-12)


@pytest.mark.parametrize("steps", [[1, 1, -2, 3, 0, 0], [2, -1, 1, 2, 3, -1, 4, 1], [0, 0, 0, 1], [-3, -3, 1, 0, 3]])
def test_ties_and_zeros_count_as_all_signs_of_their_ranks_do(steps):
    differences = np.array(steps) / 64
    ranks = rankdata(np.abs(differences))[differences != 0]
    sums = np.array([ranks[list(signs)].sum() for signs in product([False, True], repeat=len(ranks))])
    found = rankdata(np.abs(differences))[differences > 0].sum()
    below, above = np.mean(sums <= found), np.mean(sums >= found)
    assert paired_test(differences, "less") == pytest.approx(below)
    assert paired_test(differences) == pytest.approx(min(1.0, 2 * min(below, above)))


def test_of_many_pairs_few_that_differ_are_exact():
    """Thirty pairs, five of them differ and one way: one of two in thirty-two, not the normal distribution's 0.025."""
    differences = np.array([0.0] * 25 + [1, 2, 3, 4, 5]) / 64
    assert paired_test(differences) == 2 / 2**5


def test_many_pairs_have_the_normal_distribution():
    """All of n differences positive: z = (n (n + 1) / 4) / sqrt(n (n + 1) (2n + 1) / 24)."""
    n = MOST_EXACT + 1
    z = (n * (n + 1) / 4) / sqrt(n * (n + 1) * (2 * n + 1) / 24)
    assert paired_test(np.arange(1, n + 1) / 100) == pytest.approx(erfc(z / sqrt(2)))
    tied = np.random.default_rng(0).integers(-4, 6, 50) / 30  # 47 of them differ
    assert paired_test(tied) == wilcoxon(tied, zero_method="pratt", method="asymptotic").pvalue


def test_nothing_differs():
    assert paired_test(np.zeros(5)) == 1
    assert paired_test(np.array([0.1, -0.1] * 5)) == 1


def test_holm_by_hand():
    """Sorted 0.01, 0.02, 0.03 times 3, 2, 1, never falling."""
    assert holm([0.03, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
