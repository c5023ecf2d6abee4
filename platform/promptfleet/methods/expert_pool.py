"""The server's pool of experts: the last context each client uploaded, and who gets whose."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from promptfleet.methods.nearest import nearest, nearest_by_sketch

Selection = Literal["nearest", "random", "farthest"]

SKETCH_WIDTH = 256
SHORTLIST = 256  # experts near by their sketches, whose true distances are computed


def select_experts(
    contexts: Tensor,
    rounds: Tensor,
    cohort: Sequence[int],
    count: int,
    selection: Selection = "nearest",
    seeds: np.ndarray | None = None,
    sketches: Tensor | None = None,
) -> dict[int, list[int]]:
    """For each client of ``cohort`` ids of ``count`` others in the pool, by how near their contexts are, or at random.

    contexts ``[clients, tokens, width]``; rounds ``[clients]`` is the round of each upload, 0 for none. Distances are
    Euclidean, ``nearest`` or ``farthest`` first, ties go to the smaller id; ``random`` draws from a generator of each
    client's own, by ``seeds [clients]``. With ``sketches [clients, width]`` of the contexts, the nearest are looked for
    among those whose sketches are nearest, which may miss some. Fewer come back where the pool holds fewer, none for a
    client without a context of its own.
    Source: arXiv:2410.10114, expert assignment by K nearest neighbours.
    """
    there = rounds > 0
    asking = [client for client in cohort if there[client]]
    if selection == "random":
        held = there.nonzero().flatten().numpy()
        found = [
            np.random.default_rng(seeds[client]).permutation(held[held != client])[:count].tolist() for client in asking
        ]
    elif sketches is not None:
        shortlist = max(SHORTLIST, 4 * count)
        found = nearest_by_sketch(contexts, sketches, there, asking, count, shortlist=shortlist)
    else:
        found = nearest(contexts, there, asking, count, farthest=selection == "farthest")
    return {client: [] for client in cohort} | dict(zip(asking, found, strict=True))


def draw_projection(numbers: int, rng: np.random.Generator) -> Tensor:
    """``[numbers, SKETCH_WIDTH]``: keeps distances, on the average over draws, with a relative error of about 6 %.

    Source: Johnson and Lindenstrauss, *Extensions of Lipschitz mappings into a Hilbert space*, 1984.
    """
    drawn = rng.standard_normal((numbers, SKETCH_WIDTH), dtype=np.float32)
    return torch.from_numpy(drawn) / SKETCH_WIDTH**0.5


def updated(pool: Tensor, entries: Mapping[int, Tensor]) -> Tensor:
    """A copy of ``pool [clients, ...]`` with the entries of some clients replaced.

    Real numbers beyond the pool's type become its largest.
    """
    pool = pool.clone()
    for client, entry in entries.items():
        if pool.is_floating_point() and pool.dtype != entry.dtype:
            limit = torch.finfo(pool.dtype).max
            entry = entry.clamp(-limit, limit)
        pool[client] = entry
    return pool
