"""Judgements of methods without new training, redone by hand on three clients and three rounds."""

from dataclasses import replace

import pytest

from promptfleet.comparison.judgements import JUDGEMENT_HEADERS, judge_methods, judgement_rows
from promptfleet.comparison.report import make_report
from promptfleet.federation.evaluation.calibration import Certainty, calibration
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
    last = replace(rounds[-1], calibration=calibration([Certainty([0.75] * 4, [True, True, False, False])]))
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
    assert (mine.target.rounds.mean, mine.target.bytes.mean, mine.target.seconds.mean) == (2, 2 * 1536, 4.0)
    assert mine.below_zero_shot.mean == pytest.approx(1 / 3)  # zero-shot CLIP has 0.25 on each client
    assert mine.below_coop.mean == pytest.approx(1 / 3)
    assert coop.below_coop is None
    assert mine.bottom_decile.mean == 0.2
    assert mine.weighted_mean.mean == pytest.approx((2 * 0.75 + 3 * 0.2 + 4 * 0.95) / 9)
    assert mine.area.mean == pytest.approx(((0.5 + 0.97) / 2 + (0.97 + 1.0) / 2) / 2)
    assert mine.sets["test/harmonic_local_global"].mean == pytest.approx((0.6 + 0.2 / 0.7 + 0.475 / 1.2) / 3)
    assert mine.ece.mean == 0.25


def test_what_a_method_lacks_is_a_dash_and_a_target_that_is_missed_is_named():
    rows = judgement_rows(judge_methods(RESULTS), ["mine", "coop"])
    mine, coop = (dict(zip(JUDGEMENT_HEADERS, row, strict=True)) for row in rows)
    assert (mine["server"], mine["global"], mine["rounds to target"]) == ("-", "41.7", "2.0")
    assert (coop["below CoOp"], coop["rounds to target"], coop["KB to target"]) == ("-", "not reached", "-")


def test_a_comparison_has_them_in_its_files_and_draws_its_sets():
    report = make_report(RESULTS, tuned={}, failed=[], reference=None)
    files = report.files()
    assert "| **mine** | 41.7 | - | - |" in files["comparison.md"]
    assert r"\textbf{mine} & 41.7 & - & - &" in files["evaluation.tex"]
    assert '"below_zero_shot"' in files["comparison.json"]
    drawn = {name: draw() for name, draw in report.figures()}
    assert {*drawn} == {"methods", "clients", "sets", "local_global", "reliability"}
    (axes,) = drawn["sets"].axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["local", "global", "local and\nglobal"]
    assert "63.3" in [text.get_text() for text in axes.texts]
    dots = drawn["local_global"].axes[0].collections[0].get_offsets()
    assert dots.tolist() == [[0.75, 0.5], [0.2, 0.5], [0.95, 0.25]]
    (line, *_) = [one for one in drawn["reliability"].axes[0].lines if one.get_marker() == "o"]
    assert (line.get_xdata().tolist(), line.get_ydata().tolist()) == ([0.75], [0.5])
