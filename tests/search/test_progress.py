"""Output of a running sweep, on a terminal and elsewhere."""

import io
from types import SimpleNamespace

import pytest
from optuna.trial import TrialState, create_trial
from rich.cells import cell_len

from promptfleet.search.progress import SweepProgress, format_params, format_seconds
from promptfleet.terminal import START_OF_LINE, LiveLine

ROUNDS = 3


def stage(name, trials_left, *ended, failed=()):
    for number, one in enumerate(ended):
        one.number = number
    over = {*range(len(ended)), *failed}
    study = SimpleNamespace(
        trials=lambda: ended,
        trials_left=lambda: trials_left,
        has_ended=over.__contains__,
        why_failed="the server raised TypeError in trial {}".format,
    )
    return SimpleNamespace(name=name, study=study)


def trial(number, stage="trial", **last):
    values = {"stage": stage, "trial_number": number, "params": {"experts": 3, "tau": 0.04213}}
    return SimpleNamespace(config=values, last_result={"rounds": ROUNDS, **last})


def tell(progress, number, rounds, value, stage="trial"):
    progress.on_trial_start(0, [], trial(number, stage))
    for round_index in range(1, rounds + 1):
        result = {"round": round_index, "rounds": ROUNDS, "val_accuracy": value}
        progress.on_trial_result(0, [], trial(number, stage), result)
    progress.on_trial_complete(0, [], trial(number, stage, round=rounds, val_accuracy=value))


def test_counts_best_and_early_stops():
    stream = io.StringIO()
    progress = SweepProgress([stage("trial", 4, failed=[2])], stream)
    tell(progress, 0, 3, 0.8)
    tell(progress, 1, 1, 0.9)  # stopped early: never the best
    progress.on_trial_start(0, [], trial(2))
    progress.on_trial_error(0, [], trial(2))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "trial   0 starts   experts=3  tau=0.0421"
    assert lines[1].startswith("trial   0 complete  val 0.800   1/4 done, ")
    assert lines[1].endswith(" left   best 0.800 (trial 0)   0 running, 0 stopped early")
    assert lines[3].startswith("trial   1 stopped early after round 1  val 0.900   2/4 done, ")
    assert "best 0.800 (trial 0)" in lines[3]
    assert lines[5].startswith("trial   2 FAILED: the server raised TypeError in trial 2   3/4 done, ")
    assert lines[5].endswith("0 running, 1 stopped early, 1 failed")


def test_a_trial_that_is_begun_again_has_not_failed():
    stream = io.StringIO()
    progress = SweepProgress([stage("trial", 4)], stream)
    progress.on_trial_start(0, [], trial(2))
    progress.on_trial_error(0, [], trial(2))
    tell(progress, 2, 3, 0.8)
    lines = stream.getvalue().splitlines()
    assert lines[1] == "trial   2 failed; it starts again after its last round"
    assert "1/4 done, " in lines[3]
    assert lines[3].endswith("0 running, 0 stopped early")


def test_a_resumed_sweep_starts_from_what_is_done():
    stream = io.StringIO()
    values = {TrialState.COMPLETE: 0.7, TrialState.PRUNED: 0.9, TrialState.FAIL: None}
    states = [TrialState.COMPLETE] + [TrialState.PRUNED] * 3 + [TrialState.FAIL] * 2
    ended = [create_trial(state=state, value=values[state]) for state in states]
    progress = SweepProgress([stage("trial", 2, *ended)], stream)
    tell(progress, 2, 3, 0.6)
    last = stream.getvalue().splitlines()[-1]
    assert "7/8 done, " in last
    assert "best 0.700 (trial 0)" in last  # outside a study, a trial's number is -1
    assert last.endswith("0 running, 3 stopped early, 2 failed")


def test_every_stage_has_a_best_of_its_own_and_all_are_counted_together():
    stream = io.StringIO()
    progress = SweepProgress([stage("tune coop", 1), stage("compare", 1)], stream)
    tell(progress, 0, 3, 0.9, "tune coop")
    tell(progress, 0, 3, 0.8, "compare")
    lines = stream.getvalue().splitlines()
    assert lines[1].startswith("tune coop   0 complete  val 0.900   1/2 done, ")
    assert "best 0.900 (tune coop 0)" in lines[1]
    assert lines[3].startswith("compare   0 complete  val 0.800   2/2 done, ")
    assert "best 0.800 (compare 0)" in lines[3]


def test_elsewhere_than_on_a_terminal_nothing_is_rewritten():
    file = io.StringIO()
    tell(SweepProgress([stage("trial", 1)], file), 0, 3, 0.5)
    assert "\r" not in file.getvalue()
    assert file.getvalue().count("\n") == 2  # rounds come at most every few seconds


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_on_a_terminal_the_last_line_is_rewritten_and_nothing_is_wider(terminal, columns):
    terminal.resize(columns)
    progress = SweepProgress([stage("trial", 12)], terminal.stream)
    for number in range(6):
        tell(progress, number, 3, 0.5)
    terminal.resize(columns // 2)
    for number in range(6, 12):
        tell(progress, number, 3, 0.5)
    progress.on_experiment_end([])
    wide, narrow = terminal.shown().split("trial   6 starts")
    assert max(map(cell_len, wide.splitlines())) <= columns
    assert max(map(cell_len, narrow.splitlines())) <= columns // 2
    lines = terminal.shown().splitlines()
    assert [line for line in lines if "starts" in line] == [line for line in lines if line.startswith("trial")][::2]
    assert sum("complete" in line for line in lines) == 12
    assert "round" not in terminal.shown(), "those are in the line that is rewritten"
    assert "left" not in terminal.shown()
    assert terminal.written().count(START_OF_LINE) == 12 * (1 + 1 + 3 + 1 + 1) + 1


def test_wide_characters_count_as_what_they_take(terminal):
    terminal.resize(30)
    line = LiveLine(terminal.stream)
    line.rewrite("漢字" * 20)
    last = terminal.written().rpartition(START_OF_LINE)[2]
    assert (last, cell_len(last)) == ("漢字" * 7 + "…", 29)
    line.say("漢字 " * 20)
    assert {cell_len(text) for text in terminal.shown().splitlines()} <= set(range(31))
    assert terminal.shown().replace(" ", "").replace("\n", "") == "漢字" * 20


@pytest.mark.parametrize(("seconds", "text"), [(4.4, "4s"), (65, "1m05s"), (3600, "1h00m"), (7384, "2h03m")])
def test_seconds(seconds, text):
    assert format_seconds(seconds) == text


def test_params():
    assert format_params({"a": 1, "b": 0.123456, "c": "x"}) == "a=1  b=0.123  c=x"
