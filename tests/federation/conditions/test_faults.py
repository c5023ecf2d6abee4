"""Clients that drop out, crash or straggle by configuration: a function of seed, client and round."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptfleet.config import FaultsConfig
from promptfleet.federation.conditions.cohort import sample_cohort
from promptfleet.federation.conditions.faults import turnout
from promptfleet.federation.local_fleet import LocalFleet
from promptfleet.federation.rounds import Federation
from promptfleet.seeding import stream

CLIENTS = range(400)


def drawn(**faults):
    return turnout(0, 1, CLIENTS, len(CLIENTS), FaultsConfig(**faults))


def test_without_faults_everybody_is_there_after_one_update():
    assert drawn() == type(drawn())(list(CLIENTS), {}, 1.0)


@pytest.mark.parametrize("kind", ["drop_rate", "crash_rate"])
def test_rates_are_kept_and_reasons_given(kind):
    result = drawn(**{kind: 0.3})
    assert 0.24 < len(result.missing) / len(CLIENTS) < 0.36
    assert all(f"(faults.{kind})" in why for why in result.missing.values())
    assert sorted([*result.present, *result.missing]) == list(CLIENTS)


def test_updates_take_log_normal_times_and_late_ones_are_left_out():
    slowness = {client: stream(0, "faults", client=client, round_index=1) for client in CLIENTS}
    seconds = {client: math.exp(0.5 * [rng.random(2), rng.normal()][1]) for client, rng in slowness.items()}
    result = drawn(straggle=0.5, deadline=1.5)
    assert result.present == [client for client in CLIENTS if seconds[client] <= 1.5]
    assert result.missing[next(iter(result.missing))].endswith("faults.deadline=1.5")
    assert result.time == 1.5
    assert drawn(straggle=0.5).time == pytest.approx(max(seconds.values()))


def test_of_more_that_are_asked_the_first_are_taken_and_the_round_is_shorter():
    faults = FaultsConfig(straggle=1.0, over_selection=1.0)
    asked = turnout(0, 1, range(20), 10, faults)
    everybody = turnout(0, 1, range(20), 20, faults)
    assert len(asked.present) == 10
    assert set(asked.missing.values()) == {"was not among the first 10 (faults.over_selection)"}
    assert asked.time < everybody.time
    assert len(sample_cohort(0, 1, 100, 0.1, over_selection=0.5)) == 15
    assert len(sample_cohort(0, 1, 10, 1.0, over_selection=0.5)) == 10


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 99),
    cohort=st.lists(st.integers(0, 30), min_size=1, max_size=20, unique=True).map(sorted),
    drop=st.floats(0, 0.9),
    straggle=st.floats(0, 2),
    deadline=st.none() | st.floats(0.1, 3),
)
def test_everybody_is_there_or_missing_and_others_change_nothing(seed, cohort, drop, straggle, deadline):
    faults = FaultsConfig(drop_rate=drop, straggle=straggle, deadline=deadline)
    result = turnout(seed, 3, cohort, len(cohort), faults)
    assert sorted([*result.present, *result.missing]) == cohort
    for client in cohort:
        alone = turnout(seed, 3, [client], 1, faults)
        assert (client in alone.missing) == (client in result.missing)


def test_who_is_missing_in_a_round_keeps_its_state_and_is_evaluated(small_config, prepared, tmp_path):
    faulty = {"method": "tests.faulty:Faulty", "faults_folder": str(tmp_path), "participation": 1.0, "rounds": 4}
    config = small_config(**faulty, faults={"drop_rate": 0.5, "straggle": 0.3})
    federation = Federation(config, prepared, LocalFleet(prepared))
    before = federation.snapshot().privates
    for _ in range(4):
        report = federation.run_round()
        after = federation.snapshot().privates
        for client in range(3):
            changed = not before[client]["drawn"].equal(after[client]["drawn"])
            assert changed is (client not in report.dropped)
        assert len(report.client_test_accuracy) == 3
        assert report.cohort == [0, 1, 2]
        before = after
    dropped = [dict(report.dropped) for report in federation.reports]
    assert any(dropped)
    assert dropped == [turnout(0, number, range(3), 3, config.faults).missing for number in (1, 2, 3, 4)]
    calm = Federation(small_config(**faulty), prepared, LocalFleet(prepared))
    assert calm.config.fingerprint() != config.fingerprint()
