"""The server's pool of experts: the last context each client uploaded, and who gets whose."""

from collections.abc import Mapping

import torch
from torch import Tensor


def nearest_experts(contexts: Tensor, rounds: Tensor, client: int, count: int) -> list[int]:
    """Ids of the ``count`` clients whose pooled context is nearest to ``client``'s, nearest first.

    contexts ``[clients, tokens, width]``; rounds ``[clients]`` is the round of each upload, 0 for none. Distances are
    Euclidean, ties go to the smaller id, fewer come back where the pool holds fewer, none for a client without a
    context of its own. Source: arXiv:2410.10114, expert assignment by K nearest neighbours.
    """
    if rounds[client] == 0:
        return []
    contexts = contexts.double()  # the distance of finite contexts is then finite, however large they are
    distances = (contexts - contexts[client]).flatten(1).norm(dim=1)
    distances[rounds == 0] = float("inf")
    distances[client] = float("inf")
    available = int((rounds > 0).sum()) - 1
    return torch.argsort(distances, stable=True)[: min(count, available)].tolist()


def updated(pool: Tensor, entries: Mapping[int, Tensor]) -> Tensor:
    """A copy of ``pool [clients, ...]`` with the entries of some clients replaced."""
    pool = pool.clone()
    for client, entry in entries.items():
        pool[client] = entry
    return pool
