"""Reports of a federation that learns nothing, and JSON that any reader accepts."""

import json
from types import SimpleNamespace

import pytest

from promptfleet.federation.reports import (
    RoundReport,
    TrainReport,
    nothing_accepted,
)
from promptfleet.strict_json import to_json
from tests.federation.scores import evaluation

ACCEPTED = SimpleNamespace(cohort=[0, 1], rejected={1: "context is not finite"}, dropped={})
REJECTED = SimpleNamespace(cohort=[0, 1], rejected={1: "context is not finite"}, dropped={0: "died"})
NOBODY = SimpleNamespace(cohort=[0, 1], rejected={}, dropped={0: "died", 1: "late"})


@pytest.mark.parametrize(
    ("reports", "rounds", "count"),
    [
        ([], 5, None),
        ([REJECTED] * 2, 5, None),
        ([REJECTED] * 3, 5, 3),
        ([ACCEPTED, REJECTED, REJECTED], 5, None),
        ([ACCEPTED, *[REJECTED] * 4], 5, 4),
        ([*[REJECTED] * 4, ACCEPTED], 5, None),
        ([REJECTED, NOBODY, REJECTED, NOBODY, REJECTED, NOBODY], 9, 3),
        ([NOBODY] * 5, 5, None),
        ([REJECTED], 1, 1),
        ([REJECTED] * 2, 2, 2),
    ],
)
def test_a_federation_learns_nothing_after_three_rounds_without_an_update(reports, rounds, count):
    why = f"no update was accepted in {count} rounds, the last time since client 1's context is not finite"
    assert nothing_accepted(reports, rounds) == (why if count else None)


@pytest.mark.parametrize(("losses", "mean"), [([1.0, 2.0], 1.5), ([1.0, float("nan")], None), ([float("inf")], None)])
def test_a_loss_that_is_not_finite_leaves_a_round_without_one(losses, mean):
    trained = [TrainReport({"loss": loss}, 0, 0, 1.0) for loss in losses]
    evaluations = [evaluation()]
    assert RoundReport.of(1, [0], trained, {}, evaluations, 1.0).train_loss == mean


def test_every_metric_of_the_cohort_is_reported_as_its_mean_over_those_that_have_it():
    trained = [TrainReport({"loss": loss, **more}, 0, 0, 1.0) for loss, more in [(1.0, {}), (2.0, {"plans": 4.0})]]
    report = RoundReport.of(1, [0, 1], trained, {}, [evaluation()], 1.0)
    assert report.train_metrics == {"loss": 1.5, "plans": 4.0}
    assert report.train_loss == 1.5


def test_what_json_has_no_number_for_is_null():
    text = to_json({"a": [1, float("nan")], "b": (float("-inf"), {"c": 0.1}), "d": True})
    assert json.loads(text, parse_constant=pytest.fail) == {"a": [1, None], "b": [None, {"c": 0.1}], "d": True}
