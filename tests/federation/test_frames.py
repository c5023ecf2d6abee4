"""Pandas tables of a federation: the numbers of its reports, by round, by client and by both."""

import math
from types import SimpleNamespace

import pytest

from promptfleet.federation.frames import client_rounds_frame, clients_frame, rounds_frame
from promptfleet.federation.reports import ClientReport, Event, RoundReport, TrainReport
from tests.federation.scores import evaluation


def report(number: int, test: list[float], metrics: dict, **values) -> RoundReport:
    evaluations = [evaluation(client, 0.5, accuracy) for client, accuracy in enumerate(test)]
    return RoundReport.of(number, [0, 2], [TrainReport(metrics, 10, 20, 1.0)], {}, evaluations, 2.5, **values)


@pytest.fixture
def summary():
    """Three clients, of which the last attacks, and two rounds; in the second client 2 could not be reached."""
    event = Event("cohort", [2], "could not be reached", "left out")
    rounds = [
        report(1, [0.1, 0.2, 0.6], {"loss": 3.0}),
        report(2, [0.4, 0.5, 0.6], {"loss": math.nan, "plans": 7.0}, dropped={2: "late"}, events=[event]),
    ]
    clients = [ClientReport(i, 30 + i, 20, 10, 0.5, 0.4 + i / 10, 0.3, [60 + i], [], {}) for i in range(3)]
    return SimpleNamespace(rounds=rounds, clients=clients, adversaries=[2])


def test_a_row_per_round_has_the_reports_figures_and_those_of_the_method(summary):
    frame = rounds_frame(summary)
    assert list(frame.index) == [1, 2]
    assert frame["test_accuracy"].tolist() == pytest.approx([0.3, 0.5])
    assert frame["downloaded_bytes"].tolist() == [10, 10]
    assert frame[["cohort", "dropped", "rejected", "events"]].values.tolist() == [[2, 0, 0, 0], [2, 1, 0, 1]]
    assert frame["train_loss"].isna().tolist() == [False, True]
    assert frame["train/plans"].isna().tolist() == [True, False]
    assert frame["train/plans"][2] == 7
    assert all(kind.kind in "if" for kind in frame.dtypes), "every column can be drawn"


def test_a_row_per_client_has_its_samples_and_last_accuracies(summary):
    frame = clients_frame(summary)
    assert frame["num_train"].to_dict() == {0: 30, 1: 31, 2: 32}
    assert frame["test_accuracy"].to_dict() == pytest.approx({0: 0.4, 1: 0.5, 2: 0.6})
    assert frame["adversary"].tolist() == [False, False, True]


def test_a_row_per_round_and_client_gives_learning_curves(summary):
    frame = client_rounds_frame(summary)
    assert frame["test_accuracy"].unstack().values.tolist() == [[0.1, 0.2, 0.6], [0.4, 0.5, 0.6]]
    assert frame["accepted"].unstack().values.tolist() == [[True, False, True], [True, False, False]]
