"""The server's pool of experts: the last context each client uploaded, and who gets whose."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from torch import Tensor

from promptfleet.methods.nearest import nearest

Selection = Literal["nearest", "random", "farthest"]


def select_experts(
    contexts: Tensor,
    rounds: Tensor,
    cohort: Sequence[int],
    count: int,
    selection: Selection = "nearest",
    seeds: np.ndarray | None = None,
) -> dict[int, list[int]]:
    """For each client of ``cohort`` ids of ``count`` others in the pool, by how near their contexts are, or at random.

    contexts ``[clients, tokens, width]``; rounds ``[clients]`` is the round of each upload, 0 for none. Distances are
    Euclidean, ``nearest`` or ``farthest`` first, ties go to the smaller id; ``random`` draws from a generator of each
    client's own, by ``seeds [clients]``. Fewer come back where the pool holds fewer, none for a client without a
    context of its own.
    Source: arXiv:2410.10114, expert assignment by K nearest neighbours.
    """
    there = rounds > 0
    asking = [client for client in cohort if there[client]]
    if selection == "random":
        held = there.nonzero().flatten().numpy()
        found = [
            np.random.default_rng(seeds[client]).permutation(held[held != client])[:count].tolist() for client in asking
        ]
    else:
        found = nearest(contexts, there, asking, count, farthest=selection == "farthest")
    return {client: [] for client in cohort} | dict(zip(asking, found, strict=True))


def updated(pool: Tensor, entries: Mapping[int, Tensor]) -> Tensor:
    """A copy of ``pool [clients, ...]`` with the entries of some clients replaced."""
    pool = pool.clone()
    for client, entry in entries.items():
        pool[client] = entry
    return pool
