"""The figure of a grid: a line per setting over the key it is about, a band over seeds."""

import pytest

from promptfleet.figures.grid import grid_figure, main_key
from promptfleet.trial_records import TrialRecord

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


def test_of_hundreds_of_settings_the_best_have_a_line():
    space = {"lambda": {"choice": [0.5, 0.1]}, "rank": {"choice": list(range(100))}}
    records = [
        TrialRecord(number, "complete", {"lambda": value, "rank": rank}, 0.5, 3, rank / 100, 1.0)
        for number, (value, rank) in enumerate((value, rank) for value in (0.5, 0.1) for rank in range(100))
    ]
    (axes,) = grid_figure(records, space).axes
    assert [line.get_label() for line in axes.lines] == [f"rank={rank}" for rank in range(76, 100)]
    assert axes.get_title(loc="left") == "Test accuracy by lambda, best 24 of 100 settings"


def test_of_hundreds_of_values_only_some_are_named():
    space = {"lambda": {"choice": list(range(300))}}
    records = [TrialRecord(value, "complete", {"lambda": value}, 0.5, 3, 0.5, 1.0) for value in range(300)]
    (axes,) = grid_figure(records, space).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == [str(value) for value in range(0, 300, 20)]


def test_a_setting_names_the_keys_that_its_trials_have():
    space = {"lambda": {"choice": [0.5, 0.1]}, "gate": {"choice": ["a", "b"]}, "rank": {"choice": [1], "when": {}}}
    params = [{"lambda": 0.5, "gate": "a", "rank": 1}, {"lambda": 0.5, "gate": "b"}, {"gate": "b", "rank": 1}]
    records = [TrialRecord(number, "complete", one, 0.5, 3, 0.5, 1.0) for number, one in enumerate(params)]
    (axes,) = grid_figure(records, space).axes
    assert [line.get_label() for line in axes.lines] == ["gate=a  rank=1", "gate=b"]
