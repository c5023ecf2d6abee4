"""Scores and their means, redone by hand on three clients."""

import pytest

from promptfleet.federation.evaluation.scores import (
    Score,
    SetAccuracy,
    bottom_decile,
    client_accuracies,
    harmonic_mean,
    harmonic_of_means,
    honest_mean,
    set_accuracies,
)
from tests.federation.scores import evaluation

THREE = [
    evaluation(0, 0.5, 0.5, **{"test/global": 0.5, "val/global": 0.25}),
    evaluation(1, 0.75, 1.0, **{"test/global": 0.25, "val/global": 0.5}),
    evaluation(2, 1.0, 0.0, **{"test/global": 0.75, "val/global": 0.75}),
]


def test_the_harmonic_mean_is_taken_per_client_and_then_averaged():
    found = set_accuracies(THREE)
    # 2 ab / (a + b): 0.5 with 0.5, 1 with 0.25, and 0 with 0.75
    assert found["test/harmonic_local_global"].mean == pytest.approx((0.5 + 0.4 + 0.0) / 3)
    assert found["test/harmonic_local_global"].min == 0.0
    assert found["val/harmonic_local_global"].mean == pytest.approx((1 / 3 + 0.6 + 6 / 7) / 3)


def test_the_harmonic_mean_of_means_hides_who_is_good_on_one_set_only():
    found = harmonic_of_means(set_accuracies(THREE))
    assert found == {"test/local_global": 0.5, "val/local_global": pytest.approx(2 * 0.75 * 0.5 / 1.25)}


@pytest.mark.parametrize(("values", "mean"), [([0.5, 1], 2 / 3), ([0, 1], 0), ([0.4], 0.4), ([1, 1, 0.5], 0.75)])
def test_harmonic_means(values, mean):
    assert harmonic_mean(values) == pytest.approx(mean)


def test_a_set_is_summarized_over_clients():
    found = SetAccuracy.of([Score(0.5, 10), Score(1.0, 30), Score(0.0, 10)])
    assert (found.mean, found.min, found.bottom_decile, found.clients) == (0.5, 0.0, 0.0, 3)
    assert found.weighted_mean == pytest.approx((5 + 30) / 50)
    assert found.std == pytest.approx((0.5 / 3) ** 0.5)


@pytest.mark.parametrize(("clients", "place"), [(1, 0), (9, 0), (10, 1), (19, 1), (20, 2), (100, 10)])
def test_the_bottom_decile_is_the_minimum_of_fewer_than_ten(clients, place):
    accuracies = [index / clients for index in range(clients)]
    assert bottom_decile(accuracies[::-1]) == accuracies[place]


def test_means_over_honest_clients_leave_out_attackers():
    assert honest_mean(THREE, "test", adversaries=[2]) == 0.75
    assert honest_mean(THREE, "val", adversaries=[0, 1, 2]) is None


def test_the_servers_accuracy_is_of_no_client():
    one = evaluation(0, 0.5, 0.5, **{"test/server": 0.25, "test/global": 1.0})
    assert client_accuracies(one) == {
        "test/global": 1.0,
        "test/harmonic_local_global": pytest.approx(2 / 3),
        "test/local": 0.5,
        "val/local": 0.5,
    }
    assert set_accuracies([one, THREE[1]])["test/server"] == SetAccuracy(0.25, 0.0, 0.25, 0.25, 0.25, 1)
