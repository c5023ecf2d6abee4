"""Trials as plain values: their order, their counts and how a hyperparameter's value is written."""

import pytest

from promptfleet.trial_records import (
    TrialRecord,
    best_trial,
    count_states,
    format_value,
    name_ties,
    ranked_trials,
    tied_trials,
)


def record(number, state="complete", value=0.5):
    return TrialRecord(number, state, {"experts": 1}, value, rounds=3, test_accuracy=0.4, seconds=1.5)


def test_the_best_trial_is_complete_and_the_earliest_of_equals():
    assert best_trial([]) is None
    assert best_trial([record(0, "pruned", 0.9), record(1, "failed", None)]) is None
    trials = [record(2, value=0.7), record(1, value=0.7), record(0, value=0.6), record(3, "pruned", 0.9)]
    assert best_trial(trials).number == 1
    assert [trial.number for trial in ranked_trials(trials)] == [1, 2, 0]
    assert count_states(trials) == {"complete": 3, "pruned": 1, "failed": 0, "running": 0}


@pytest.mark.parametrize(("value", "text"), [(0.012345, "0.0123"), (3, "3"), (True, "true"), ("linear", "linear")])
def test_a_value_is_written_as_in_a_file_with_three_digits_of_real_numbers(value, text):
    assert format_value(value) == text


def test_ties_are_equal_but_for_the_order_of_a_sum():
    trials = [
        TrialRecord(number, "complete", {}, value, 1, None, 0.0) for number, value in enumerate((0.6, 0.1 + 0.2, 0.3))
    ]
    assert tied_trials(trials[1:], best_trial(trials[1:])) == [2]
    assert tied_trials(trials, best_trial(trials)) == tied_trials([], None) == []
    assert name_ties([2, 5]) == "tied with trials 2, 5, which have the same value"
