"""Figures of a sweep's trials by all their keys, by two of them, by two objectives and over time."""

import pytest

from promptfleet.figures.contour import contour_figure
from promptfleet.figures.key_axis import key_axis
from promptfleet.figures.parallel import parallel_figure
from promptfleet.figures.pareto import pareto_figure
from promptfleet.figures.timeline import timeline_figure
from promptfleet.trial_records import TrialRecord

SPACE = {"experts": {"int": [1, 9]}, "tau": {"float": [0.01, 1.0], "log": True}, "gate": {"choice": ["b", "a"]}}
SHARES = {"experts": 0.2, "tau": 0.7, "gate": 0.1}


def trial(number, value, state="complete", values=(), times=(None, None), **params):
    times = {"started_s": times[0], "ended_s": times[1]}
    return TrialRecord(number, state, params, value, 5, None, 1.0, values=values, **times)


TRIALS = [
    trial(0, 0.5, experts=1, tau=0.01, gate="a"),
    trial(1, 0.9, experts=5, tau=0.1, gate="b"),
    trial(2, 0.7, experts=9, gate="b"),
    trial(3, 0.6, experts=3, tau=1.0, gate="a"),
    trial(4, 0.4, "pruned", experts=7, tau=0.5, gate="a"),
    trial(5, 0.6, experts=2, tau=0.2, gate="a"),
]


@pytest.mark.parametrize(
    ("name", "value", "place"), [("experts", 3, 0.25), ("tau", 0.1, 0.5), ("gate", "b", 0.0), ("gate", "a", 1.0)]
)
def test_places_on_an_axis(name, value, place):
    assert key_axis(name, TRIALS, SPACE[name], ["tau"]).place(value) == pytest.approx(place)
    assert key_axis(name, [], SPACE[name], ()) is None


def test_ticks_are_values_at_their_places():
    assert key_axis("gate", TRIALS, SPACE["gate"], ()).ticks() == ([0.0, 1.0], ["b", "a"])
    places, texts = key_axis("tau", TRIALS, SPACE["tau"], ["tau"]).ticks()
    assert dict(zip(texts, places, strict=True))["0.1"] == pytest.approx(0.5)


def test_parallel_coordinates_have_a_line_per_trial_with_a_gap_for_a_missing_key():
    (axes,) = parallel_figure(TRIALS, SPACE, log_scale=["tau"], objective="val/global").axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["experts", "tau", "gate", "val/global"]
    lines = [line for line in axes.lines if len(line.get_xdata()) == 50]
    assert len(lines) == 4 * 3 + 1 + 2, "three segments, but one of the trial without tau, and two of the pruned one"
    (best,) = [line for line in axes.lines if line.get_marker() == "o"]
    assert best.get_ydata() == pytest.approx([0.5, 0.5, 0.0, 1.0])
    assert parallel_figure(TRIALS[:1], SPACE) is None
    assert parallel_figure(TRIALS, {"experts": SPACE["experts"]}) is None


def test_the_contour_is_over_the_two_most_important_keys():
    axes, colors = contour_figure(TRIALS, SPACE, SHARES, objective="val/global").axes
    assert (axes.get_xlabel(), axes.get_ylabel(), colors.get_ylabel()) == ("tau", "experts", "val/global")
    (complete,) = [dots for dots in axes.collections if dots.get_label() == "complete"]
    assert complete.get_array().tolist() == [0.5, 0.9, 0.6, 0.6], "not the trial without tau"
    assert contour_figure(TRIALS[:4], SPACE, SHARES) is None
    assert contour_figure(TRIALS, SPACE, {}) is None


def test_the_front_is_marked_by_number():
    trials = [trial(n, v, values=(v, c)) for n, (v, c) in enumerate([(0.5, 10.0), (0.7, 30.0), (0.6, 40.0)])]
    objectives = {"val/local": "maximize", "bytes_up": "minimize"}
    (axes,) = pareto_figure(trials, objectives, [0, 1]).axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("bytes_up (lower is better)", "val/local (higher is better)")
    (front,) = [dots for dots in axes.collections if dots.get_label() == "on the front"]
    assert front.get_offsets().tolist() == [[10.0, 0.5], [30.0, 0.7]]
    assert [text.get_text().strip() for text in axes.texts] == ["0", "1"]
    assert pareto_figure(trials, {"val/local": "maximize"}, []) is None


def test_the_timeline_has_a_bar_per_trial_that_ended():
    trials = [
        trial(0, 0.5, times=(0.0, 120.0)),
        trial(1, 0.4, "pruned", times=(60.0, 600.0)),
        trial(2, None, "running"),
    ]
    (axes,) = timeline_figure(trials).axes
    assert [(bar.get_x(), bar.get_width()) for bar in axes.patches] == [(0.0, 2.0), (1.0, 9.0)]
    assert axes.get_xlabel() == "minutes since the first trial began"
    assert timeline_figure(trials[2:]) is None
