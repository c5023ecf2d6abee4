"""The nearest points to many at once by their sketches: few points are looked at, wherever they lie.

The distances of those whose sketches are near bound that of the last of the nearest. Whoever's sketch is farther away
than that is farther away itself, and only the others are looked at: what comes back is what every distance in float64
would give, ties included.
"""

from collections.abc import Sequence
from math import ceil

import torch
from torch import Tensor

from promptfleet.methods.experts.nearest import PAIR_BYTES, Points, at_once, nearest, ranked
from promptfleet.methods.experts.sketches import GROUP, lower_bounds, lowest_bounds

FIRST = 32  # points near by their sketches that are looked at before those that these leave
MOST = 1 / 4  # of all groups may have points that are worth being looked at one by one; more go through one product

_FLOAT32 = torch.finfo(torch.float32)


def nearest_by_sketch(
    points: Points,
    sketches: Tensor,
    among: Tensor,
    queries: Sequence[int],
    count: int,
    *,
    shortlist: int | None = None,
) -> list[list[int]]:
    """What ``nearest`` gives, by the ``sketches [points, WIDTH]`` of the points.

    points may lie on disk (a mapped array): no more of them are read than are looked at. With a ``shortlist`` these are
    so many whose sketches are nearest, and some of the nearest points may be missed.
    """
    flat, groups = points.flatten(1), ceil(len(points) / GROUP)
    first = shortlist or max(FIRST, 2 * count)
    found: dict[int, list[int]] = {}
    for some in at_once(queries, groups):
        for query, lowest in zip(some.tolist(), lowest_bounds(sketches, among, sketches[some]), strict=True):
            nearby = lowest.topk(min(first + 1, groups), largest=False).indices  # the query's own is one of them
            ids, bounds, own = _bounds_in(nearby.sort().values, sketches, among, query)
            ids = ids[bounds.topk(min(first, len(ids)), largest=False).indices.sort().values]
            near, last = _near(flat, query, ids, count)
            if shortlist is None:
                limit = min(_FLOAT32.max, last**2 - own)  # the former where the latter is not a number
                left = (lowest <= limit).nonzero().flatten()
                if len(left) > MOST * groups:
                    continue
                ids, bounds, _ = _bounds_in(left, sketches, among, query)
                near, _ = _near(flat, query, ids[bounds <= limit], count)
            found[query] = ranked(flat, torch.tensor([query]), torch.stack([torch.zeros_like(near), near]), count)[0]
    scattered = [query for query in queries if query not in found]
    found |= zip(scattered, nearest(points, among, scattered, count), strict=True)
    return [found[query] for query in queries]


def _bounds_in(groups: Tensor, sketches: Tensor, among: Tensor, query: int) -> tuple[Tensor, Tensor, float]:
    """The other points of some groups, in ascending order, their bounds, and what the query adds to these."""
    ids = (groups.unsqueeze(1) * GROUP + torch.arange(GROUP)).flatten()
    ids = ids[ids < len(among)]
    ids = ids[among[ids] & (ids != query)]
    bounds, own = lower_bounds(sketches[ids], sketches[query : query + 1])
    return ids, bounds.squeeze(1), float(own)


def _near(flat: Points, query: int, ids: Tensor, count: int) -> tuple[Tensor, float]:
    """Which of the points ``ids`` may be among their nearest ``count``, and at most how far away the last of those is.

    Distances are taken in float32: their squares are sums of d numbers and off by less than d times its resolution.
    """
    if not 0 < count <= len(ids):
        return ids[: count * len(ids)], torch.inf
    own, numbers = flat[query].float(), flat.shape[1]
    parts = ids.split(max(1, PAIR_BYTES // (4 * numbers)))
    distances = torch.cat([flat[part].float().sub_(own).norm(dim=1) for part in parts])
    last = float(distances.kthvalue(count).values) * (1 + numbers * _FLOAT32.eps) + (numbers * _FLOAT32.tiny) ** 0.5
    return ids[distances <= last], last
