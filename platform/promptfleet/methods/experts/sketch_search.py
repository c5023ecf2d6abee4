"""Nearest points to many at once by their sketches: few points are compared.

The points with the nearest sketches bound the distance of the last wanted point. A point whose sketch is farther away
than that is farther away itself, and only the others are compared: the result is that of every distance in float64,
ties included.
"""

from collections.abc import Sequence
from math import ceil

import torch
from torch import Tensor

from promptfleet.methods.experts.nearest import PAIR_BYTES, Points, at_once, nearest, ranked
from promptfleet.methods.experts.sketches import GROUP, lower_bounds, lowest_bounds

FIRST = 32  # points with the nearest sketches that are compared first
MOST = 1 / 4  # fraction of the groups to compare point by point; above it, one product is faster

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
    """Return the result of ``nearest``, by the ``sketches [points, WIDTH]`` of the points.

    points may be on disk (a mapped array): only compared ones are read. A ``shortlist`` is the number of points with
    the nearest sketches to compare; some of the nearest points may then be missed.
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
                limit = min(_FLOAT32.max, last**2 - own)  # the former if the latter is not a number
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
    """Return the other points of some groups, in ascending order, their bounds, and the query's part of these."""
    ids = (groups.unsqueeze(1) * GROUP + torch.arange(GROUP)).flatten()
    ids = ids[ids < len(among)]
    ids = ids[among[ids] & (ids != query)]
    bounds, own = lower_bounds(sketches[ids], sketches[query : query + 1])
    return ids, bounds.squeeze(1), float(own)


def _near(flat: Points, query: int, ids: Tensor, count: int) -> tuple[Tensor, float]:
    """Return which of the points ``ids`` may be among their nearest ``count``, and a bound on the last one's distance.

    Distances are taken in float32: their squares are sums of d numbers and off by less than d times its resolution.
    """
    if not 0 < count <= len(ids):
        return ids[: count * len(ids)], torch.inf
    own, numbers = flat[query].float(), flat.shape[1]
    parts = ids.split(max(1, PAIR_BYTES // (4 * numbers)))
    distances = torch.cat([flat[part].float().sub_(own).norm(dim=1) for part in parts])
    last = float(distances.kthvalue(count).values) * (1 + numbers * _FLOAT32.eps) + (numbers * _FLOAT32.tiny) ** 0.5
    return ids[distances <= last], last
