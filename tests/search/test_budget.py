"""Budget of all trials together: the search stops drawing, and a resumed one counts on."""

import pytest

from promptfleet.config import FederationConfig
from promptfleet.errors import ConfigError
from promptfleet.search import study as study_module
from promptfleet.search.quantities import QUANTITIES, RoundFigures, quantities_of
from promptfleet.search.space import IntRange
from promptfleet.search.spec import SweepSettings, parse_sweep
from promptfleet.search.study import SweepStudy
from tests.tracking.values import make_result

SPACE = {"experts": IntRange(1, 9)}
SEARCH = {"space": {"experts": {"int": [1, 4]}}, "federation": {"rounds": 3}}


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves by hand: ``clock[0] += 1.0``."""
    now = [100.0]
    monkeypatch.setattr(study_module.time, "monotonic", lambda: now[0])
    return now


def run_trials(folder, count=99, after_round=lambda: None, **budget):
    """Run this many trials, or fewer if the budget ends first; returns the study."""
    study = SweepStudy(folder, SPACE, SweepSettings(trials=4, budget=budget), 2)
    for _ in range(count):
        proposal = study.next_proposal()
        if proposal is None:
            break
        for index in range(1, 3):
            used = {"client_seconds": 2.0 * index, "bytes": 100 * index}
            study.report(proposal.number, index, 0.5, RoundFigures(used, []))
            after_round()
        study.complete(proposal.number, 0.5)
    return study


@pytest.mark.parametrize(
    ("budget", "trials"),
    [({"rounds": 5}, 3), ({"rounds": 4}, 2), ({"bytes": 450}, 3), ({"client_seconds": 7.5}, 2), ({"rounds": 99}, 4)],
)
def test_no_trial_is_begun_once_a_part_of_the_budget_is_used_up(study_folder, budget, trials):
    study = run_trials(study_folder, **budget)
    assert len(study.trials()) == trials
    assert study.is_over()
    assert study.used_up() == (next(iter(budget)) if trials < 4 else None)


def test_what_was_used_counts_when_it_is_resumed(study_folder):
    run_trials(study_folder, count=1, bytes=350)
    assert len(run_trials(study_folder, bytes=350).trials()) == 2
    assert SweepStudy(study_folder, SPACE, SweepSettings(trials=8, budget={"bytes": 350}), 2).is_over()
    assert len(run_trials(study_folder, bytes=450).trials()) == 3, "a larger budget goes on"


def test_a_trial_that_runs_is_finished_and_counts(study_folder):
    study = SweepStudy(study_folder, SPACE, SweepSettings(trials=8, budget={"rounds": 2}), 3)
    first, second = study.next_proposal(), study.next_proposal()
    study.report(first.number, 1, 0.5)
    study.report(second.number, 1, 0.5)
    assert study.next_proposal() is None
    assert (study.trials_left(), study.is_over()) == (2, False)
    again = SweepStudy(study_folder, SPACE, SweepSettings(trials=8, budget={"rounds": 2}), 3)
    assert [again.next_proposal().number for _ in range(2)] == [0, 1], "they end properly in a resumed search, too"
    for number in (0, 1):
        again.complete(number, 0.5)
    assert again.is_over()


def test_seconds_are_those_of_running_and_not_of_pauses(study_folder, clock):
    def tick():
        clock[0] += 1.0

    assert len(run_trials(study_folder, count=1, after_round=tick, seconds=5.0).trials()) == 1
    clock[0] += 1000.0
    study = SweepStudy(study_folder, SPACE, SweepSettings(trials=8, budget={"seconds": 5.0}), 2)
    clock[0] += 1000.0  # the study is open, and nothing runs yet
    assert not study.is_over()
    assert len(run_trials(study_folder, after_round=tick, seconds=5.0).trials()) == 3
    assert len(run_trials(study_folder, after_round=tick, seconds=60.0).trials()) == 4


def test_a_federations_quantities():
    rounds = make_result(FederationConfig(clients=3)).rounds
    found = quantities_of(rounds)
    assert found.keys() == QUANTITIES.keys()
    assert found["bytes"] == found["bytes_up"] + found["bytes_down"] == found["bytes_per_round"] * len(rounds)
    assert found["bytes_up"] == sum(report.uploaded_bytes for report in rounds)
    assert found["worst_client"] == min(rounds[-1].client_val_accuracy)
    assert quantities_of(rounds[:1])["rounds"] == 1


def test_trials_are_a_part_of_the_budget_and_the_same_as_the_key():
    assert parse_sweep({**SEARCH, "budget": {"trials": 5}}, source="a").settings.trials == 5
    spec = parse_sweep({**SEARCH, "trials": 5, "budget": {"trials": 5, "rounds": 30}}, source="a", trials=7)
    assert (spec.settings.trials, spec.settings.budget.rounds) == (7, 30)
    assert parse_sweep(spec.to_dict(), source="again", trials=9).settings.trials == 9


def test_parts_can_be_raised_and_their_use_is_known_then(study_folder, clock):
    def tick():
        clock[0] += 1.0

    used = run_trials(study_folder, count=2, after_round=tick).used()
    assert used == {"seconds": 4.0, "client_seconds": 8.0, "bytes": 400, "rounds": 4}
    assert SweepStudy(study_folder, SPACE, SweepSettings(), 2).used() == used, "a later search may limit any of them"
    spec = parse_sweep({**SEARCH, "budget": {"rounds": 30, "bytes": 9}}, source="a", budget={"rounds": 60})
    assert (spec.settings.budget.rounds, spec.settings.budget.bytes) == (60, 9)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"rouns": 3}, "--budget rouns: is no part of a budget; did you mean 'rounds'?"),
        ({"trials": 3}, "--budget trials: give --trials 3"),
        ({"bytes": "many"}, "--budget: budget.bytes: got 'many', should be a valid integer"),
    ],
)
def test_what_is_wrong_with_a_new_part_is_said(budget, message):
    with pytest.raises(ConfigError) as caught:
        parse_sweep(SEARCH, source="a.yaml", budget=budget)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"budget": {"rounds": 2}}, "a.yaml: budget.rounds: 2 allow no trial, which takes 3 rounds"),
        (
            {"budget": {"rounds": 5}, "seeds_per_trial": 2},
            "a.yaml: budget.rounds: 5 allow no trial, which takes 6 rounds (3 for each of 2 seeds)",
        ),
        ({"budget": {"trials": 0}}, "a.yaml: budget: trials: got 0, should be greater than or equal to 1"),
        ({"budget": {"seconds": 0}}, "a.yaml: budget.seconds: got 0, should be greater than 0"),
        ({"budget": {"bytes": -3}}, "budget.bytes: got -3, should be greater than or equal to 1"),
        ({"budget": {"secnds": 3}}, "unknown key 'budget.secnds'; did you mean 'budget.seconds'?"),
        ({"budget": 3}, "a.yaml: budget: got 3, should be a section of keys"),
        ({"budget": {"trials": 3}, "trials": 4}, "trials: got 4, but budget.trials is 3; keep one of them"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(values, message):
    with pytest.raises(ConfigError) as caught:
        parse_sweep({**SEARCH, **values}, source="a.yaml")
    assert message in str(caught.value)
