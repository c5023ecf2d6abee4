"""Which clients train in a round."""

import math

from promptfleet.seeding import stream


def cohort_size(clients: int, participation: float) -> int:
    """At least one."""
    return max(1, round(participation * clients))


def asked_clients(clients: int, participation: float, *, over_selection: float = 0.0) -> int:
    """How many clients a round asks: the cohort, and ``over_selection`` times as many beyond it."""
    return min(clients, math.ceil(cohort_size(clients, participation) * (1 + over_selection)))


def sample_cohort(
    seed: int, round_index: int, clients: int, participation: float, *, over_selection: float = 0.0
) -> list[int]:
    """Ids in ascending order, drawn without replacement; at least one. Depends on seed and round only.

    over_selection is the share of clients that are asked beyond those that are wanted, as far as there are so many.
    """
    size = asked_clients(clients, participation, over_selection=over_selection)
    chosen = stream(seed, "cohort", round_index=round_index).choice(clients, size=size, replace=False)
    return sorted(chosen.tolist())
