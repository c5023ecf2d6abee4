"""What a sweep prints, on a terminal and elsewhere."""

import io
from types import SimpleNamespace

import pytest
from optuna.trial import TrialState, create_trial

from promptfleet.search.progress import SweepProgress, format_params, format_seconds

ROUNDS = 3


def stage(name, trials_left, *ended, failed=()):
    study = SimpleNamespace(trials=lambda: ended, trials_left=lambda: trials_left, has_ended=lambda n: n in failed)
    return SimpleNamespace(name=name, study=study)


def trial(number, stage="trial", **last):
    values = {"stage": stage, "trial_number": number, "params": {"experts": 3, "tau": 0.04213}}
    return SimpleNamespace(config=values, last_result={"rounds": ROUNDS, **last}, error_file="error.txt")


class Terminal(io.StringIO):
    def isatty(self):
        return True


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
    assert "trial   0 complete  val 0.800  best 0.800 (trial 0)   1/4 done, 0 running, 0 stopped early" in lines[1]
    assert "trial   1 stopped early after round 1  val 0.900  best 0.800 (trial 0)   2/4 done" in lines[3]
    assert "trial   2 FAILED, see error.txt" in lines[5]
    assert "3/4 done, 0 running, 1 stopped early, 1 failed" in lines[5]


def test_a_trial_that_is_begun_again_has_not_failed():
    stream = io.StringIO()
    progress = SweepProgress([stage("trial", 4)], stream)
    progress.on_trial_start(0, [], trial(2))
    progress.on_trial_error(0, [], trial(2))
    tell(progress, 2, 3, 0.8)
    lines = stream.getvalue().splitlines()
    assert lines[1] == "trial   2 failed, see error.txt; it is begun again after its last round"
    assert "1/4 done, 0 running, 0 stopped early   " in lines[3]


def test_a_resumed_sweep_starts_from_what_is_done():
    stream = io.StringIO()
    ended = create_trial(state=TrialState.COMPLETE, value=0.7), create_trial(state=TrialState.FAIL)
    progress = SweepProgress([stage("trial", 2, *ended)], stream)
    tell(progress, 2, 3, 0.6)
    assert "best 0.700 (trial -1)   3/4 done" in stream.getvalue()  # outside a study, a trial's number is -1


def test_every_stage_has_a_best_of_its_own_and_all_are_counted_together():
    stream = io.StringIO()
    progress = SweepProgress([stage("tune coop", 1), stage("compare", 1)], stream)
    tell(progress, 0, 3, 0.9, "tune coop")
    tell(progress, 0, 3, 0.8, "compare")
    lines = stream.getvalue().splitlines()
    assert "tune coop   0 complete  val 0.900  best 0.900 (tune coop 0)   1/2 done" in lines[1]
    assert "compare   0 complete  val 0.800  best 0.800 (compare 0)   2/2 done" in lines[3]


def test_a_terminal_gets_one_line_rewritten_and_a_file_does_not():
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        tell(SweepProgress([stage("trial", 1)], stream), 0, 3, 0.5)
    assert terminal.getvalue().count("\r\x1b[Ktrial   0 round") == 3
    assert "\r" not in file.getvalue()
    assert file.getvalue().count("\n") == 2  # rounds come at most every few seconds


@pytest.mark.parametrize(("seconds", "text"), [(4.4, "4s"), (65, "1m05s"), (3600, "1h00m"), (7384, "2h03m")])
def test_seconds(seconds, text):
    assert format_seconds(seconds) == text


def test_params():
    assert format_params({"a": 1, "b": 0.123456, "c": "x"}) == "a=1  b=0.123  c=x"
