"""The nearest points to many at once by their sketches: few points are looked at, wherever they lie.

The distances of those whose sketches are near bound that of the last of the nearest. Whoever's sketch is farther away
than that is farther away itself, and only the others are looked at: what comes back is what every distance in float64
would give, ties included.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from promptfleet.methods.nearest import PAIR_BYTES, at_once, nearest, ranked
from promptfleet.methods.sketches import lower_bounds

FIRST = 32  # points near by their sketches that are looked at before those that these leave
MOST = 1 / 32  # of all points are worth being looked at one by one; more go through one product

_FLOAT32 = torch.finfo(torch.float32)


def nearest_by_sketch(
    points: Tensor,
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
    flat = points.flatten(1)
    first = min(shortlist or max(FIRST, 2 * count), len(flat))
    found: dict[int, list[int]] = {}
    for some in at_once(queries, len(flat)):
        bounds, constants = lower_bounds(sketches, among, some)
        listed = bounds.topk(first, dim=1, largest=False).indices.sort(dim=1).values
        for query, bound, constant, ids in zip(some.tolist(), bounds, constants.tolist(), listed, strict=True):
            near, last = _near(flat, query, ids[bound[ids] < torch.inf], count)
            if shortlist is None:
                limit = min(_FLOAT32.max, last**2 - constant)  # the former where the latter is not a number
                left = (bound <= limit).nonzero().flatten()
                if len(left) > MOST * len(flat):
                    continue
                near, _ = _near(flat, query, left, count)
            found[query] = ranked(flat, torch.tensor([query]), torch.stack([torch.zeros_like(near), near]), count)[0]
    scattered = [query for query in queries if query not in found]
    found |= zip(scattered, nearest(points, among, scattered, count), strict=True)
    return [found[query] for query in queries]


def _near(flat: Tensor, query: int, ids: Tensor, count: int) -> tuple[Tensor, float]:
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
