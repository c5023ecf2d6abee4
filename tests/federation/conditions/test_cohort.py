import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptfleet.federation.conditions.cohort import sample_cohort


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**40),
    round_index=st.integers(1, 500),
    clients=st.integers(1, 60),
    participation=st.floats(0.001, 1),
)
def test_sorted_unique_ids_as_many_as_asked_and_the_same_each_time(seed, round_index, clients, participation):
    cohort = sample_cohort(seed, round_index, clients, participation)
    assert cohort == sorted(set(cohort))
    assert len(cohort) == max(1, round(participation * clients))
    assert set(cohort) <= set(range(clients))
    assert all(type(client) is int for client in cohort)
    assert sample_cohort(seed, round_index, clients, participation) == cohort


def test_everybody_at_full_participation():
    assert sample_cohort(3, 1, 6, 1.0) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("what", ["seed", "round"])
def test_seed_and_round_change_the_cohort(what):
    cohorts = {tuple(sample_cohort(*(n, 1) if what == "seed" else (0, n), 40, 0.25)) for n in range(1, 21)}
    assert len(cohorts) > 15


def test_every_client_gets_its_turn():
    seen = {client for round_index in range(1, 80) for client in sample_cohort(0, round_index, 20, 0.1)}
    assert seen == set(range(20))
