"""Calibration errors, redone by formula on toys."""

import numpy as np
import pytest

from promptfleet.federation.evaluation.calibration import Certainty, calibration, calibration_errors


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
