"""The choice of experts for each client, by the distances of contexts or at random."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from promptfleet.methods.experts.nearest import Points, nearest
from promptfleet.methods.experts.options import Search, Selection
from promptfleet.methods.experts.sketch_search import nearest_by_sketch

SHORTLIST = 128  # experts near by their sketches, whose true distances are computed


def select_experts(
    contexts: Points,
    rounds: Tensor,
    cohort: Sequence[int],
    count: int,
    selection: Selection = "nearest",
    seeds: np.ndarray | None = None,
    sketches: Tensor | None = None,
    search: Search = "exact",
) -> dict[int, list[int]]:
    """Return for each client of ``cohort`` the ids of ``count`` others in the pool.

    contexts ``[clients, tokens, width]``; rounds ``[clients]`` is the round of each upload, 0 for none. Distances are
    Euclidean, ``nearest`` or ``farthest`` first, ties go to the smaller id; ``random`` draws for each client from its
    entry of ``seeds [clients]``. With ``sketches [clients, WIDTH]`` of the contexts the nearest are found sooner; a
    ``projected`` search compares only those whose sketches are nearest, which may miss some. A client gets fewer if the
    pool has fewer, and none without a context in the pool.
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
        shortlist = max(SHORTLIST, 4 * count) if search == "projected" else None
        found = nearest_by_sketch(contexts, sketches, there, asking, count, shortlist=shortlist)
    else:
        found = nearest(contexts, there, asking, count, farthest=selection == "farthest")
    return {client: [] for client in cohort} | dict(zip(asking, found, strict=True))
