import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from promptfleet.methods.experts.selection import select_experts


def experts_of(contexts, rounds, client, count, selection="nearest", seed=0):
    seeds = np.full(len(contexts), seed)
    return select_experts(contexts, rounds, [client], count, selection, seeds)[client]


def on_a_line(*places):
    """Contexts of one token and one dimension, so that distances can be read off."""
    return torch.tensor(places, dtype=torch.float32).view(-1, 1, 1)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), clients=st.integers(1, 9), count=st.integers(0, 10))
def test_nearest_are_the_nearest_of_those_in_the_pool(data, clients, count):
    numbers = st.integers(-3, 3)  # small integers: exact distances and many ties
    places = data.draw(st.lists(st.lists(numbers, min_size=4, max_size=4), min_size=clients, max_size=clients))
    rounds = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=clients, max_size=clients)))
    client = data.draw(st.integers(0, clients - 1))
    contexts = torch.tensor(places, dtype=torch.float32).view(clients, 2, 2)

    ids = experts_of(contexts, rounds, client, count)

    others = [other for other in range(clients) if rounds[other] > 0 and other != client]
    if rounds[client] == 0:
        assert ids == []
        return
    squared = {other: sum((a - b) ** 2 for a, b in zip(places[other], places[client], strict=True)) for other in others}
    assert ids == sorted(others, key=lambda other: (squared[other], other))[:count]
    assert len(ids) == min(count, int((rounds > 0).sum()) - 1)
    assert client not in ids
    left = [squared[other] for other in others if other not in ids]
    assert all(squared[chosen] <= distance for chosen in ids for distance in left)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 9999), clients=st.integers(2, 8), count=st.integers(1, 8))
def test_chosen_are_no_farther_than_the_others_for_real_numbers(seed, clients, count):
    contexts = torch.randn(clients, 3, 4, generator=torch.Generator().manual_seed(seed)) * 0.02
    ids = experts_of(contexts, torch.ones(clients, dtype=torch.int64), 0, count)
    distance = (contexts.double() - contexts[0].double()).flatten(1).norm(dim=1)
    left = [other for other in range(1, clients) if other not in ids]
    assert len(ids) == min(count, clients - 1)
    assert all(distance[chosen] <= distance[other] for chosen in ids for other in left)


def test_nearest_first_and_ties_by_id():
    everybody = torch.ones(6, dtype=torch.int64)
    contexts = on_a_line(5, 3, 9, 5.5, 7, 3)  # distances from client 0: 2, 4, 0.5, 2, 2
    assert experts_of(contexts, everybody, 0, 5) == [3, 1, 4, 5, 2]
    assert experts_of(contexts, everybody, 0, 2) == [3, 1]
    assert experts_of(contexts, everybody, 0, 0) == []


def test_an_equal_context_of_another_client_is_not_taken_for_ones_own():
    assert experts_of(on_a_line(4, 4, 1), torch.ones(3, dtype=torch.int64), 1, 1) == [0]


def test_untrained_clients_are_no_experts_even_where_zero_is_near():
    contexts, rounds = on_a_line(0.1, 0, 8), torch.tensor([1, 0, 3])
    assert experts_of(contexts, rounds, 0, 2) == [2]
    assert experts_of(contexts, rounds, 1, 2) == []


def test_age_of_an_entry_does_not_matter():
    contexts = on_a_line(1, 2, 3)
    assert experts_of(contexts, torch.tensor([9, 1, 9]), 0, 1) == [1]


def test_huge_finite_contexts_do_not_let_the_client_itself_or_untrained_ones_in():
    contexts = on_a_line(0, 3e38, 0, -3e38, 1)
    rounds = torch.tensor([0, 1, 0, 1, 1])
    assert experts_of(contexts, rounds, 1, 3) == [4, 3]
    assert experts_of(contexts, rounds, 4, 3) == [1, 3]


def test_farthest_first_and_ties_by_id():
    everybody = torch.ones(6, dtype=torch.int64)
    contexts = on_a_line(5, 3, 9, 5.5, 7, 3)  # distances from client 0: 2, 4, 0.5, 2, 2
    assert experts_of(contexts, everybody, 0, 5, "farthest") == [2, 1, 4, 5, 3]
    assert experts_of(contexts, torch.tensor([1, 1, 0, 1, 1, 1]), 0, 2, "farthest") == [1, 4]


def test_random_ones_are_all_equally_likely():
    everybody = torch.tensor([1, 1, 0, 1, 1])
    drawn = [experts_of(on_a_line(1, 2, 3, 4, 5), everybody, 1, 2, "random", seed) for seed in range(600)]
    counts = np.bincount([one for ids in drawn for one in ids], minlength=5)
    assert counts[[1, 2]].tolist() == [0, 0]
    assert (abs(counts[[0, 3, 4]] - 400) < 60).all()
    assert all(len(set(ids)) == 2 for ids in drawn)


def test_a_cohort_gets_what_each_of_its_clients_would_get_alone():
    contexts, rounds = torch.randn(8, 2, 3, generator=torch.Generator().manual_seed(1)), torch.tensor([1] * 7 + [0])
    for selection in ("nearest", "farthest", "random"):
        alone = {client: experts_of(contexts, rounds, client, 3, selection, 5) for client in (6, 7, 0)}
        assert select_experts(contexts, rounds, [6, 7, 0], 3, selection, np.full(8, 5)) == alone
        assert alone[7] == []


def test_inputs_stay_as_they_are():
    contexts, rounds = on_a_line(1, 2, 3), torch.tensor([1, 1, 0])
    experts_of(contexts, rounds, 0, 2)
    assert contexts.flatten().tolist() == [1, 2, 3]
    assert rounds.tolist() == [1, 1, 0]
