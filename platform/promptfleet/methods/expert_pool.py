"""The server's pool of experts: the last context each client uploaded, and who gets whose."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Selection = Literal["nearest", "random", "farthest"]


def select_experts(
    contexts: Tensor,
    rounds: Tensor,
    client: int,
    count: int,
    selection: Selection = "nearest",
    rng: np.random.Generator | None = None,
) -> list[int]:
    """Ids of ``count`` other clients in the pool, by how near their contexts are to ``client``'s, or at random.

    contexts ``[clients, tokens, width]``; rounds ``[clients]`` is the round of each upload, 0 for none. Distances are
    Euclidean, ``nearest`` or ``farthest`` first, ties go to the smaller id; ``random`` draws from ``rng``. Fewer come
    back where the pool holds fewer, none for a client without a context of its own.
    Source: arXiv:2410.10114, expert assignment by K nearest neighbours.
    """
    if rounds[client] == 0:
        return []
    others = [other for other in rounds.nonzero().flatten().tolist() if other != client]
    if selection == "random":
        return rng.permutation(others)[:count].tolist()
    away = contexts[others].double() - contexts[client].double()  # finite however large the contexts are
    order = torch.argsort(away.flatten(1).norm(dim=1), stable=True, descending=selection == "farthest")
    return [others[index] for index in order[:count].tolist()]


def updated(pool: Tensor, entries: Mapping[int, Tensor]) -> Tensor:
    """A copy of ``pool [clients, ...]`` with the entries of some clients replaced."""
    pool = pool.clone()
    for client, entry in entries.items():
        pool[client] = entry
    return pool
