"""Named random streams. Every random choice is a function of (seed, role, client, round, sample) and no more."""

import zlib

import numpy as np


def stream(
    seed: int, role: str, *, client: int | None = None, round_index: int | None = None, sample: int | None = None
) -> np.random.Generator:
    """Return the generator of one role, the same on every backend, in any order and after a restart.

    ``role`` names what is drawn ("partition", "cohort", "local_update", ...); two roles never share numbers, so
    drawing more of one leaves the others as they were.
    """
    key = (zlib.crc32(role.encode()), _slot(client), _slot(round_index), *(() if sample is None else (sample,)))
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _slot(index: int | None) -> int:
    return 0 if index is None else index + 1
