"""The figure of a grid: a line per setting over the key it is about, a band over seeds."""

import pytest

from promptfleet.tracking.figures.grid import grid_figure, main_key
from promptfleet.tracking.sweep_run import TrialRecord

SPACE = {"lambda": {"choice": [0.5, 0.1]}, "method": {"choice": ["a", "b"]}, "seed": {"choice": [0, 1]}}


def trials(values, accuracy, state="complete"):
    return [
        TrialRecord(
            number, state, {"lambda": value, "method": method, "seed": seed}, 0.5, 3, accuracy(value, seed), 1.0
        )
        for number, (value, method, seed) in enumerate(
            (value, method, seed) for value in values for method in "ab" for seed in (0, 1)
        )
    ]


def test_a_line_per_setting_in_the_order_of_the_file_and_a_band_over_seeds():
    (axes,) = grid_figure(trials([0.5, 0.1], lambda value, seed: value + 0.2 * seed), SPACE).axes
    assert [line.get_label() for line in axes.lines] == ["a", "b"]
    assert axes.lines[0].get_ydata() == pytest.approx([0.6, 0.2])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.5", "0.1"]
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((0.2 - 0.1 * 2**0.5, 0.6 + 0.1 * 2**0.5))


def test_words_have_no_line_between_them():
    (axes,) = grid_figure(trials(["near", "far"], lambda *_: 0.5), SPACE).axes
    assert len(axes.containers) == 2
    assert [label.get_text() for label in axes.get_xticklabels()] == ["near", "far"]


def test_there_is_nothing_to_draw_without_a_key_or_a_complete_trial():
    assert main_key({"method": {}, "seed": {}}) is None
    assert grid_figure(trials([0.5], lambda *_: 0.5), {"method": {}, "seed": {}}) is None
    assert grid_figure(trials([0.5], lambda *_: 0.5, state="running"), SPACE) is None
