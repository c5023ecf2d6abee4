"""The server's pool of experts: the last context each client uploaded, and who gets whose."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from promptfleet.methods.experts.nearest import Points, nearest
from promptfleet.methods.experts.sketch_search import nearest_by_sketch
from promptfleet.methods.experts.sketches import principal_frame, sketch

Selection = Literal["nearest", "random", "farthest"]
Search = Literal["exact", "projected"]

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
    """For each client of ``cohort`` ids of ``count`` others in the pool, by how near their contexts are, or at random.

    contexts ``[clients, tokens, width]``; rounds ``[clients]`` is the round of each upload, 0 for none. Distances are
    Euclidean, ``nearest`` or ``farthest`` first, ties go to the smaller id; ``random`` draws from a generator of each
    client's own, by ``seeds [clients]``. With ``sketches [clients, WIDTH]`` of the contexts the nearest are found
    sooner; a ``projected`` search looks at no more than those whose sketches are nearest, which may miss some. Fewer
    come back where the pool holds fewer, none for a client without a context of its own.
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


def updated_sketches(
    frame: Tensor, sketches: Tensor, contexts: Points, rounds_before: Tensor, rounds: Tensor, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Frame ``[WIDTH, numbers]`` and sketches ``[clients, WIDTH]`` of a pool that has just taken in a round's uploads.

    Both are computed again after rounds 1, 2, 4, 8, ..., or the next one with uploads, from the pool as it is then,
    since prompts move, if ever less; after the others only the sketches of what was uploaded. ``rounds_before`` and
    ``rounds [clients]`` are those of each client's upload, without and with this round.
    """
    now = int(rounds.max())
    if now.bit_length() > int(rounds_before.max()).bit_length():
        frame = principal_frame(contexts, rounds > 0, rng)
        return frame, sketch(contexts, frame)
    new = (rounds == now).nonzero().flatten()
    return frame, sketches.index_copy(0, new, sketch(contexts[new], frame))


def updated(pool: Tensor, entries: Mapping[int, Tensor]) -> Tensor:
    """A copy of ``pool [clients, ...]`` with the entries of some clients replaced.

    Real numbers beyond the pool's type become its largest.
    """
    pool = pool.clone()
    for client, entry in entries.items():
        pool[client] = fitting(entry, pool.dtype)
    return pool


def fitting(entry: Tensor, dtype: torch.dtype) -> Tensor:
    """``entry`` as a pool of that type has it: real numbers beyond it are its largest."""
    if dtype.is_floating_point and dtype != entry.dtype:
        limit = torch.finfo(dtype).max
        entry = entry.clamp(-limit, limit)
    return entry.to(dtype)
