"""Figures of a sweep: what is drawn is what was given."""

from dataclasses import replace

import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba

from promptfleet.figures import style
from promptfleet.figures.sweep import history_figure, importances_figure, slices_figure
from promptfleet.trial_records import Importances, TrialRecord


def trial(number, value, state="complete", **params):
    return TrialRecord(number, state, params, value, rounds=5, test_accuracy=None, seconds=1.0)


TRIALS = [
    trial(0, 0.5, experts=1, tau=0.01),
    trial(1, 0.4, "pruned", experts=2, tau=0.1),
    trial(2, 0.7, experts=3, tau=1.0),
    trial(3, None, "failed", experts=4, tau=5.0),
    trial(4, 0.6, experts=5, tau=10.0),
    trial(5, None, "running", experts=6, tau=10.0),
]


def points(axes, label):
    (found,) = [dots for dots in axes.collections if dots.get_label().startswith(label)]
    return found


def test_history_shows_every_trial_that_ended():
    (axes,) = history_figure(TRIALS).axes
    assert points(axes, "complete").get_offsets().tolist() == [[0, 0.5], [2, 0.7], [4, 0.6]]
    pruned = points(axes, "pruned")
    assert pruned.get_offsets().tolist() == [[1, 0.4]]
    assert tuple(pruned.get_facecolor()[0]) == to_rgba("white"), "pruned trials are hollow"
    assert points(axes, "failed").get_offsets()[:, 0].tolist() == [3]
    assert axes.get_title(loc="left") == "Sweep history: 3 complete, 1 pruned, 1 failed"


def test_history_line_is_the_best_complete_trial_so_far():
    (axes,) = history_figure([*TRIALS, trial(6, 0.99, "pruned")]).axes
    (line,) = axes.lines
    assert line.get_xdata().tolist() == [0, 2, 4, 6]
    assert line.get_ydata().tolist() == [0.5, 0.7, 0.7, 0.7]
    assert line.get_drawstyle() == "steps-post"


def test_history_rings_the_best_trial_and_shows_zero_shot():
    (axes,) = history_figure([*TRIALS, trial(6, 0.7)], zero_shot=0.25).axes
    ring = points(axes, "best: trial 2")
    assert ring.get_offsets().tolist() == [[2, 0.7]], "the earliest of equals"
    (dashed,) = [line for line in axes.lines if "zero-shot CLIP, test accuracy 0.250" in line.get_label()]
    assert list(dashed.get_ydata()) == [0.25, 0.25]


def test_history_of_failures_only():
    (axes,) = history_figure([trial(0, None, "failed")]).axes
    assert list(axes.lines) == []
    assert len(axes.collections) == 1


@pytest.mark.parametrize("draw", [history_figure, slices_figure, importances_figure])
def test_nothing_to_see_is_no_figure(draw):
    assert draw(None if draw is importances_figure else [trial(0, None, "running", experts=1)]) is None


def test_importances_are_sorted_bars_with_their_spread():
    shares = {"tau": 0.25, "experts": 0.7, "lr": 0.05}
    (axes,) = importances_figure(Importances(shares, {"tau": 0.1, "experts": 0.2, "lr": 0.1}, 9)).axes
    assert [bar.get_width() for bar in axes.patches] == [0.7, 0.25, 0.05]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["experts", "tau", "lr"]
    assert [text.get_text().strip() for text in axes.texts] == ["0.70 ± 0.20", "0.25 ± 0.10", "0.05 ± 0.10"]
    assert axes.get_title(loc="left") == "Hyperparameter importance in 9 complete trials"


def slices(trials, **options):
    """Axes by the name of their hyperparameter."""
    return {axes.get_xlabel(): axes for axes in slices_figure(trials, **options).axes if axes.get_visible()}


def offsets(axes):
    return [point for dots in axes.collections for point in dots.get_offsets().tolist()]


def test_slices_have_one_plot_per_hyperparameter():
    drawn = slices(TRIALS)
    assert list(drawn) == ["experts", "tau"]
    assert offsets(drawn["experts"]) == [[1, 0.5], [3, 0.7], [5, 0.6], [2, 0.4]]
    faces = [tuple(dots.get_facecolor()[0][:3]) for dots in drawn["experts"].collections]
    assert faces == [to_rgba(style.BLUE)[:3], to_rgba("white")[:3]], "one collection each, however many trials"


def test_slices_show_the_standard_error_of_complete_trials():
    trials = [replace(trial(0, 0.5, tau=0.1), standard_error=0.2), replace(trial(1, 0.4, "pruned", tau=0.2))]
    (bars,) = [lines for lines in slices(trials)["tau"].collections if isinstance(lines, LineCollection)]
    (segment,) = bars.get_segments()
    assert segment[:, 1].tolist() == pytest.approx([0.3, 0.7])


def test_of_dozens_of_hyperparameters_the_most_important_are_drawn():
    names = [f"key_{number}" for number in range(50)]
    trials = [trial(number, 0.5 + number / 10, **dict.fromkeys(names, number)) for number in range(3)]
    importances = {name: number / 1225 for number, name in enumerate(names)}
    figure = slices_figure(trials, importances=importances)
    assert [axes.get_xlabel() for axes in figure.axes] == names[-12:]
    assert figure.get_suptitle() == "Validation accuracy by hyperparameter (12 of 50)"
    assert [axes.get_xlabel() for axes in slices_figure(trials).axes] == names[:12]
    (axes,) = importances_figure(Importances(importances, importances, 3)).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == names[:9:-1]
    assert axes.get_title(loc="left") == "Hyperparameter importance in 3 complete trials (40 of 50)"


def test_of_hundreds_of_choices_only_some_are_named():
    words = [f"w{number}" for number in range(300)]
    drawn = slices([trial(0, 0.5, word="w299"), trial(1, 0.6, word="w7")], space={"word": {"choice": words}})
    assert offsets(drawn["word"]) == [[299, 0.5], [7, 0.6]]
    assert ticks(drawn["word"]) == [f"w{number}" for number in range(0, 300, 20)]


@pytest.mark.parametrize(
    ("values", "log_scale", "scale"),
    [
        ([0.01, 10.0], (), "log"),
        ([0.01, 1.0], (), "linear"),
        ([0.01, 1.0], ("tau",), "log"),
        ([0.0, 1000.0], ("tau",), "linear"),
        ([0.5], ("tau",), "log"),
    ],
)
def test_scale_of_a_slice(values, log_scale, scale):
    trials = [trial(number, 0.5 + number / 10, tau=value) for number, value in enumerate(values)]
    assert slices(trials, log_scale=log_scale)["tau"].get_xscale() == scale


def test_words_and_switches_are_categories():
    trials = [trial(0, 0.5, kind="iid", shuffle=True), trial(1, 0.6, kind="dirichlet", shuffle=False)]
    drawn = slices(trials)
    assert [label.get_text() for label in drawn["kind"].get_xticklabels()] == ["dirichlet", "iid"]
    assert offsets(drawn["kind"]) == [[1, 0.5], [0, 0.6]]
    assert [label.get_text() for label in drawn["shuffle"].get_xticklabels()] == ["false", "true"]


def test_a_hyperparameter_that_not_every_trial_has():
    drawn = slices([trial(0, 0.5, experts=1), trial(1, 0.6, experts=2, tau=0.3)])
    assert offsets(drawn["tau"]) == [[0.3, 0.6]]


def test_unused_places_of_the_grid_are_empty():
    trials = [trial(0, 0.5, **dict.fromkeys("abcd", 1))]
    figure = slices_figure(trials)
    assert [axes.axison for axes in figure.axes] == [True] * 4 + [False] * 2


SPACE = {
    "experts": {"int": [1, 9]},
    "tau": {"float": [0.02, 1.0], "log": True},
    "length": {"choice": [4, 8, 16]},
}


def ticks(axes):
    return [label.get_text() for label in axes.get_xticklabels()]


def test_axes_show_what_was_searched():
    trials = [trial(0, 0.5, experts=3, tau=0.05, length=16), trial(1, 0.6, experts=4, tau=0.06, length=4)]
    drawn = slices(trials, log_scale=["tau"], space=SPACE)
    assert ticks(drawn["length"]) == ["4", "8", "16"]
    assert offsets(drawn["length"]) == [[2, 0.5], [0, 0.6]]
    low, high = drawn["experts"].get_xlim()
    assert (low < 1, high > 9) == (True, True)
    low, high = drawn["tau"].get_xlim()
    assert (0.01 < low < 0.02, 1 < high < 2) == (True, True)
    assert ticks(drawn["tau"]) == ["0.03", "0.1", "0.3", "1"]


@pytest.mark.parametrize("values", [[3], [0.5], [0.0], [1, 2], [0.001, 10.0], [-1.0, 1.0]])
def test_no_marker_lies_on_the_frame(values):
    trials = [trial(number, 0.5 + number / 10, tau=value) for number, value in enumerate(values)]
    axes = slices(trials)["tau"]
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    assert left < min(values) <= max(values) < right
    assert bottom < 0.5 <= trials[-1].value < top


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0001, 1, [0.0001, 0.001, 0.01, 0.1, 1]),
        (0.02, 1, [0.03, 0.1, 0.3, 1]),
        (0.04, 0.3, [0.05, 0.1, 0.2]),
        (0.04, 0.065, [0.04, 0.05, 0.06]),
        (0.41, 0.44, [0.41, 0.42, 0.43, 0.44]),
        (1e-9, 1, [1e-9, 1e-7, 1e-5, 1e-3, 0.1]),
    ],
)
def test_ticks_of_logarithmic_axes(low, high, expected):
    assert style.log_ticks(low, high) == expected
