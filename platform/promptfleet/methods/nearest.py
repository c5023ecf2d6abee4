"""The nearest points to many at once: one matrix product, then exact distances of the few it leaves.

The product is taken in whatever is fast. How far it can be off is bounded, and nothing is left out that the bound does
not exclude: what comes back is what every distance in float64 would give, ties included.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

QUERIES = 128  # whose distances to all points are held at once
BLOCK_BYTES, PAIR_BYTES = 2**20, 2**24  # of points in the product, of differences: what fits the processor's caches
MANY_POINTS = 2**14  # from here on the product is taken in less than float64
UNIT = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}  # unit roundoff


def nearest(
    points: Tensor, among: Tensor, queries: Sequence[int], count: int, *, farthest: bool = False
) -> list[list[int]]:
    """For each query the indices of the ``count`` nearest other points, nearest first.

    points ``[points, ...]``, float32 or narrower; among ``[points]``: those that may be found. Queries are indices of
    points. Distances are Euclidean, ties go to the smaller index, ``farthest`` turns the order around. Fewer come back
    where there are fewer.
    """
    if not len(queries):
        return []
    flat = points.flatten(1)
    found: list[list[int]] = []
    for some in torch.tensor(queries, dtype=torch.int64).split(QUERIES):
        others = among.expand(len(some), -1).scatter(1, some.unsqueeze(1), False)
        found += ranked(flat, some, _candidates(flat, some, others, count, farthest), count, farthest=farthest)
    return found


def nearest_by_sketch(
    points: Tensor, sketches: Tensor, among: Tensor, queries: Sequence[int], count: int, *, shortlist: int
) -> list[list[int]]:
    """As ``nearest``, of those ``shortlist`` points alone whose ``sketches [points, width]`` are nearest.

    points may lie on disk (a mapped array): no more than the shortlists are read. A shortlist of all points gives
    what ``nearest`` gives.
    """
    flat = points.flatten(1)
    found: list[list[int]] = []
    for some in torch.tensor(queries, dtype=torch.int64).split(QUERIES) if len(queries) else ():
        others = among.expand(len(some), -1).scatter(1, some.unsqueeze(1), False)
        near = torch.cat(
            [
                torch.addmm(block.square().sum(dim=1), sketches[some], block.T, alpha=-2)  # |a|^2 - 2 ab
                for block in sketches.split(max(1, BLOCK_BYTES // (4 * sketches.shape[1])))
            ],
            dim=1,
        ).masked_fill_(~others, torch.inf)
        listed = near.topk(min(shortlist, len(flat)), dim=1, largest=False).indices
        candidates = torch.zeros_like(others).scatter(1, listed, True) & others
        found += ranked(flat, some, candidates, count)
    return found


def ranked(flat: Tensor, queries: Tensor, candidates: Tensor, count: int, *, farthest: bool = False) -> list[list[int]]:
    """The same from points ``[points, d]``, of each query's candidates ``[queries, points]`` alone."""
    rows, columns = pairs = candidates.nonzero().T
    parts = pairs.split(max(1, PAIR_BYTES // (8 * flat.shape[1])), dim=1)
    distances = torch.cat([(flat[column].double() - flat[queries[row]].double()).norm(dim=1) for row, column in parts])
    order = distances.argsort(stable=True, descending=farthest)
    order = order[rows[order].argsort(stable=True)]
    found = columns[order].split(candidates.sum(dim=1).tolist())
    return [columns[:count].tolist() for columns in found]


def _candidates(flat: Tensor, queries: Tensor, others: Tensor, count: int, farthest: bool) -> Tensor:
    """``[queries, points]``: which of the ``others`` may be among the nearest (or farthest) ``count``."""
    if not 0 < count < int(others.sum(dim=1).min()):
        return others & (count > 0)
    squared, error = _squared_distances(flat, flat[queries])
    if farthest:
        squared.neg_()
    low = (squared - error).nan_to_num_(nan=-torch.inf)
    high = squared.add_(error).nan_to_num_(nan=torch.inf).masked_fill_(~others, torch.inf)
    last = high.topk(count, dim=1, largest=False).values[:, -1:]
    return (low <= last) & others


def _squared_distances(flat: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances ``[queries, points]``, up to a constant for each query, and by how much they may be off.

    |a|^2 - 2 ab of points ``[points, d]`` and queries ``[queries, d]``, the queries' mean moved to the origin, where
    rounding hurts least. Rounding a and b for the product costs |a - a'| |b| + |a'| |b - b'|, adding d numbers up
    d UNIT |a| |b|, and the result UNIT |ab|.
    """
    wide, narrow = _types(len(flat))
    queries = queries.to(wide)
    centre, d = queries.mean(dim=0), flat.shape[1]
    b = queries - centre
    b_rounded = b.to(narrow)
    products, norms, losses = [], [], []
    for block in flat.split(max(1, BLOCK_BYTES // (4 * d))):
        a = block.to(wide) - centre
        a_rounded = a.to(narrow)
        products.append((b_rounded @ a_rounded.T).to(wide))
        norms.append(a.norm(dim=1))
        losses.append((a - a_rounded).norm(dim=1))
    product, a_norm, a_lost = torch.cat(products, dim=1), torch.cat(norms), torch.cat(losses)
    b_norm, b_lost = b.norm(dim=1), (b - b_rounded).norm(dim=1)
    sums = (2 * d + 16) * UNIT[wide] * torch.ones_like(b_norm)  # of products, of the norms' squares, centre's rounding
    error = torch.addmm(
        product.abs(),
        torch.stack([2 * b_norm, 2 * b_lost, sums, 2 * sums * b_norm, sums * b_norm**2], dim=1),
        torch.stack([a_lost, a_norm + a_lost, a_norm**2, a_norm, torch.ones_like(a_norm)]),
        beta=2 * UNIT[narrow],
    )
    return torch.sub(a_norm.square(), product, alpha=2), error


def _types(points: int) -> tuple[torch.dtype, torch.dtype]:
    """What everything is computed in, and what the product is."""
    if points < MANY_POINTS:
        return torch.float64, torch.float64
    return torch.float32, torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32
