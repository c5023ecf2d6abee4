"""Judgements of methods without new training, redone by hand on three clients and three rounds."""

from dataclasses import replace

import numpy as np
import pytest

from promptfleet.comparison.judgements import judge_methods
from promptfleet.comparison.report import Shown, make_report
from promptfleet.federation.evaluation.calibration import Certainty, Tally, calibration, calibration_of_tallies
from promptfleet.federation.evaluation.scores import client_accuracies
from promptfleet.federation.reports import RoundReport, TrainReport
from tests.comparison.values import make_summary
from tests.federation.scores import evaluation


def summary(val_by_round, test, everywhere=(0.5, 0.5, 0.25)):
    """A federation with these mean validation accuracies, and accuracies of its clients after the last round."""
    trained = [TrainReport({}, 1024, 512, 0.1)]
    rounds = []
    for index, val in enumerate(val_by_round, start=1):
        clients = [
            evaluation(client, val, accuracy, samples=2 + client, **{"test/global": general})
            for client, (accuracy, general) in enumerate(zip(test, everywhere, strict=True))
        ]
        rounds.append(RoundReport.of(index, [0], trained, {}, clients, 2.0))
    last = replace(
        rounds[-1],
        calibration=calibration([Certainty([0.75] * 4, [True, True, False, False])]),
        set_calibration={"test/base": calibration_of_tallies([Tally.of(np.full(4, 0.875), np.arange(4) < 3)])},
    )
    result = make_summary(list(test))
    accuracies = [client_accuracies(one) for one in clients]
    reports = [replace(one, accuracy=found) for one, found in zip(result.clients, accuracies, strict=True)]
    return replace(result, rounds=[*rounds[:-1], last], clients=reports, accuracy=last.accuracy)


RESULTS = {
    ("coop", 0): summary([0.5, 0.6, 0.7], [0.5, 0.5, 0.75]),
    ("mine", 0): summary([0.5, 0.97, 1.0], [0.75, 0.2, 0.95]),
}


def test_every_column_is_what_the_reports_say():
    coop, mine = judge_methods(RESULTS)
    assert mine.target_accuracy == 0.95
    assert coop.target is None
    assert (mine.target.rounds.mean, mine.target.kilobytes.mean, mine.target.seconds.mean) == (2, 2 * 1.5, 4.0)
    assert mine.below_zero_shot.mean == pytest.approx(1 / 3)  # zero-shot CLIP has 0.25 on each client
    assert mine.below_coop.mean == pytest.approx(1 / 3)
    assert coop.below_coop is None
    assert mine.bottom_decile.mean == 0.2
    assert mine.weighted_mean.mean == pytest.approx((2 * 0.75 + 3 * 0.2 + 4 * 0.95) / 9)
    assert mine.area.mean == pytest.approx(((0.5 + 0.97) / 2 + (0.97 + 1.0) / 2) / 2)
    assert mine.sets["test/harmonic_local_global"].mean == pytest.approx((0.6 + 0.2 / 0.7 + 0.475 / 1.2) / 3)
    assert mine.calibration["ece"].mean == 0.25


def test_what_a_method_lacks_is_a_dash_and_a_target_that_is_missed_is_named():
    _, sets, further = make_report(RESULTS, tuned={}, failed=[]).tables
    mine, coop, untrained = (dict(zip(sets.headers, row, strict=True)) for row in sets.rows)
    assert (mine["local"], mine["global"]) == ("63.3", "41.7 ≈")
    assert untrained["method"] == "(zero-shot CLIP)"
    assert (coop["harmonic local global"], (1, 3) in sets.bold) == ("45.8", True), "the best of the set"
    assert "server" not in sets.headers, "no method has a server with a model"
    mine, coop = (dict(zip(further.headers, row, strict=True)) for row in further.rows)
    assert (mine["rounds to target"], mine["ECE"], mine["ECE base"]) == ("2.0", "25.0", "12.5")
    assert "ECE new" not in mine, "no result has it"
    assert (coop["below CoOp"], coop["rounds to target"], coop["KB to target"]) == ("-", "not reached", "-")


def test_the_reader_may_set_the_target():
    report = make_report(RESULTS, tuned={}, failed=[], shown=Shown(target=0.6))
    coop, mine = report.judgements
    assert (coop.target.rounds.mean, mine.target.rounds.mean, mine.target_accuracy) == (2, 2, 0.6)
    assert "Target: 60.0 %." in report.files()["comparison.md"]


def test_a_comparison_has_them_in_its_files_and_draws_its_sets():
    report = make_report(RESULTS, tuned={}, failed=[])
    assert '"below_zero_shot"' in report.files()["comparison.json"]
    drawn = {name: draw() for name, draw in report.figures()}
    assert {*drawn} == {"methods", "clients", "sets", "local_global", "reliability"}
    (axes,) = drawn["sets"].axes
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == ["local", "global", "harmonic\nlocal\nglobal"]
    assert "63.3" in [text.get_text() for text in axes.texts]
    dots = drawn["local_global"].axes[0].collections[0].get_offsets()
    assert dots.tolist() == [[0.75, 0.5], [0.2, 0.5], [0.95, 0.25]]
    (dots,) = drawn["reliability"].axes[0].collections
    assert dots.get_offsets().tolist() == [[0.75, 0.5]]
