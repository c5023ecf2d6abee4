"""Cohorts: the clients that train in a round."""

import math
from collections.abc import Sequence

from promptfleet.config import FederationConfig
from promptfleet.data.unseen import held_out_clients
from promptfleet.seeding import stream


def training_clients(config: FederationConfig) -> Sequence[int]:
    """Return the ids of the clients that may train, ascending: all but those that are held out."""
    held_out = frozenset(held_out_clients(config.partition, config.clients, config.seed))
    return [client for client in range(config.clients) if client not in held_out]


def cohort_size(clients: int, participation: float) -> int:
    """Return the number of clients in a cohort, at least one."""
    return max(1, round(participation * clients))


def asked_clients(clients: int, participation: float, *, over_selection: float = 0.0) -> int:
    """Return the number of clients that a round asks: the cohort, and ``over_selection`` times as many beyond it."""
    return min(clients, math.ceil(cohort_size(clients, participation) * (1 + over_selection)))


def sample_cohort(
    seed: int, round_index: int, clients: int, participation: float, *, over_selection: float = 0.0
) -> list[int]:
    """Return ids in ascending order, drawn without replacement; at least one. Depends on seed and round only.

    over_selection is the fraction of extra clients to ask, as far as there are enough clients.
    """
    size = asked_clients(clients, participation, over_selection=over_selection)
    chosen = stream(seed, "cohort", round_index=round_index).choice(clients, size=size, replace=False)
    return sorted(chosen.tolist())
