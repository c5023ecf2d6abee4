"""Calibration errors, redone by formula on toys."""

import numpy as np
import pytest

from promptfleet.federation.evaluation.calibration import (
    Certainty,
    Tally,
    calibration,
    calibration_errors,
    calibration_of_tallies,
)


def certainty(*groups):
    """Predictions in groups of (confidence, how many, how many of them are right)."""
    confidence = np.concatenate([np.full(count, value) for value, count, _ in groups])
    right = np.concatenate([np.arange(count) < correct for _, count, correct in groups])
    return Certainty(confidence.tolist(), right.tolist())


def test_a_perfectly_calibrated_toy_has_no_error():
    found = calibration([certainty((0.25, 20, 5), (0.5, 20, 10), (1.0, 20, 20))])
    assert (found.ece, found.mce) == (0.0, 0.0)
    assert [(one.count, one.confidence, one.accuracy) for one in found.bins] == [
        (20, 0.25, 0.25),
        (20, 0.5, 0.5),
        (20, 1.0, 1.0),
    ]


def test_an_overconfident_one_has_the_error_of_the_formula():
    errors = calibration_errors(certainty((0.95, 30, 15), (0.65, 10, 5)))
    assert errors["ece"] == pytest.approx(0.75 * 0.45 + 0.25 * 0.15)
    assert errors["mce"] == pytest.approx(0.45)
    # bins of four: of the first ten, which are 65 % sure, five are right, and of the others the first fifteen
    right = [1] * 5 + [0] * 5 + [1] * 15 + [0] * 15
    sure = [0.65] * 10 + [0.95] * 30
    gaps = [abs(sum(right[i : i + 4]) - sum(sure[i : i + 4])) / 4 for i in range(0, 40, 4)]
    assert errors["ace"] == pytest.approx(np.mean(gaps))


def test_bins_are_closed_on_the_right():
    (one,) = calibration([certainty((0.5, 1, 1), (0.41, 1, 0))]).bins
    assert one.count == 2
    assert len(calibration([certainty((0.5, 1, 1), (0.51, 1, 0))]).bins) == 2


def test_pooled_errors_are_not_the_mean_over_clients():
    clients = [certainty((0.75, 4, 4)), certainty((0.75, 4, 2))]
    found = calibration(clients)
    assert found.ece == 0.0  # 6 of 8 are right
    assert found.client_means["ece"] == 0.25


def test_tallies_of_parts_add_up_and_have_the_errors_of_all_predictions():
    sure, right = np.array([0.25, 0.5, 0.25, 1.0]), np.array([True, True, False, True])
    tally = Tally.empty() + Tally.of(sure[:3], right[:3]) + Tally.of(sure[3:], right[3:])
    assert tally == Tally.of(sure, right)
    assert [(one.count, one.confidence, one.accuracy) for one in tally.bins()] == [
        (2, 0.25, 0.5),
        (1, 0.5, 1.0),
        (1, 1.0, 1.0),
    ]
    assert tally.errors() == {"ece": 0.5 * 0.25 + 0.25 * 0.5, "mce": 0.5}


def test_tallies_of_clients_have_the_calibration_of_their_predictions_but_for_equal_counts():
    clients = [certainty((0.75, 4, 4), (0.3125, 2, 1)), certainty((0.75, 4, 2))]
    wanted = calibration(clients)
    found = calibration_of_tallies([Tally.of(np.array(one.confidence), np.array(one.right)) for one in clients])
    assert (found.ece, found.mce, found.ace, found.bins) == (wanted.ece, wanted.mce, None, wanted.bins)
    assert found.client_means == {name: wanted.client_means[name] for name in ("ece", "mce")}
