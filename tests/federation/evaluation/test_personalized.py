"""Personalized states that are kept for a second evaluation: those of one round, within the limits of memory."""

import torch

from promptfleet.federation.evaluation.personalized import MOST_BYTES, MOST_KEPT, Personalized


def state_of(size):
    """A state of ``size`` bytes, which takes no memory."""
    return {
        "samples": torch.empty(size // 2, dtype=torch.uint8, device="meta"),
        "own": torch.empty(size // 8, device="meta"),
    }


def kept_in(personalized, round_index, clients):
    return [client for client in range(clients) if personalized.of(round_index, client) is not None]


def test_states_are_kept_up_to_a_number_of_bytes():
    personalized = Personalized()
    for client in range(4):
        personalized.keep(1, client, state_of(MOST_BYTES // 2 if client < 3 else 8))
    assert kept_in(personalized, 1, 4) == [0, 1]
    personalized.keep(1, 0, None)
    personalized.keep(1, 2, state_of(MOST_BYTES // 2))
    personalized.keep(1, 1, state_of(MOST_BYTES // 2))  # in place of its own
    assert kept_in(personalized, 1, 4) == [1, 2]
    personalized.keep(2, 3, state_of(MOST_BYTES))
    assert (kept_in(personalized, 1, 4), kept_in(personalized, 2, 4)) == ([], [3])


def test_states_are_kept_up_to_a_number_of_clients():
    personalized = Personalized()
    for client in range(MOST_KEPT + 1):
        personalized.keep(1, client, state_of(8))
    assert kept_in(personalized, 1, MOST_KEPT + 1) == list(range(MOST_KEPT))
