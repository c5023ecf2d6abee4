"""Which clients train in a round."""

from promptfleet.seeding import stream


def sample_cohort(seed: int, round_index: int, clients: int, participation: float) -> list[int]:
    """Ids in ascending order, drawn without replacement; at least one. Depends on seed and round only."""
    size = max(1, round(participation * clients))
    chosen = stream(seed, "cohort", round_index=round_index).choice(clients, size=size, replace=False)
    return sorted(chosen.tolist())
