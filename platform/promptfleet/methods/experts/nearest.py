"""Nearest points to many at once: one matrix product, then exact distances of the few that it leaves.

The product's rounding error is bounded, and only points that the bound excludes are left out: the result is that of
every distance in float64, ties included.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

QUERIES, DISTANCES = 128, 2**26  # queries at once, and the largest number of their distances to all points
BLOCK_BYTES, PAIR_BYTES = 2**21, 2**24  # of points in the product, and of differences: as many as fit the caches
MANY_POINTS = 2**14  # from here on the product is never taken in float64
TOO_MANY = 4  # candidates per wanted point
CHUNK = 256  # products that are added up at once: rounding grows with their number


class Points(Protocol):
    """Part of a tensor ``[points, ...]`` that a search among its rows needs; they may be elsewhere (``on_disk``)."""

    shape: torch.Size

    def __len__(self) -> int: ...

    def __getitem__(self, ids: Tensor) -> Tensor: ...

    def flatten(self, start: int) -> "Points": ...

    def split(self, size: int) -> Iterable[Tensor]: ...


def nearest(
    points: Points, among: Tensor, queries: Sequence[int], count: int, *, farthest: bool = False
) -> list[list[int]]:
    """Return for each query the indices of the ``count`` nearest other points, nearest first.

    points ``[points, ...]``, float32 or narrower; among ``[points]``: true for points that may be found. Queries are
    indices of points. Distances are Euclidean, ties go to the smaller index, ``farthest`` reverses the order. The
    result has fewer if there are fewer.
    """
    flat = points.flatten(1)
    found: list[list[int]] = []
    for some in at_once(queries, len(flat)):
        others = among.expand(len(some), -1).scatter(1, some.unsqueeze(1), False)
        candidates = _candidates(flat, some, others, count, farthest).nonzero().T
        found += ranked(flat, some, candidates, count, farthest=farthest)
    return found


def ranked(flat: Points, queries: Tensor, pairs: Tensor, count: int, *, farthest: bool = False) -> list[list[int]]:
    """Return the same from points ``[points, d]``, among each query's candidates alone.

    ``pairs [2, candidates]`` are places in ``queries`` and indices of points, in ascending order.
    """
    rows, columns = pairs
    parts = pairs.split(max(1, PAIR_BYTES // (8 * flat.shape[1])), dim=1)
    distances = torch.cat([(flat[column].double() - flat[queries[row]].double()).norm(dim=1) for row, column in parts])
    order = distances.argsort(stable=True, descending=farthest)
    order = order[rows[order].argsort(stable=True)]
    found = columns[order].split(rows.bincount(minlength=len(queries)).tolist())
    return [columns[:count].tolist() for columns in found]


def at_once(queries: Sequence[int], points: int) -> Sequence[Tensor]:
    """Return the queries in parts, so that their distances to all points fit into memory."""
    size = max(1, min(QUERIES, DISTANCES // points))
    return torch.tensor(queries, dtype=torch.int64).split(size) if len(queries) else ()


def _candidates(flat: Points, queries: Tensor, others: Tensor, count: int, farthest: bool) -> Tensor:
    """Return ``[queries, points]``: true for the ``others`` that may be among the nearest (farthest) ``count``."""
    if not 0 < count < int(others.sum(dim=1).min()):
        return others & (count > 0)
    for dtype in (torch.float32, torch.float64):
        squared, error = _squared_distances(flat, flat[queries], dtype)
        if farthest:
            squared.neg_()
        low = (squared - error).nan_to_num_(nan=-torch.inf)
        high = squared.add_(error).nan_to_num_(nan=torch.inf).masked_fill_(~others, torch.inf)
        last = high.topk(count, dim=1, largest=False).values[:, -1:]
        candidates = (low <= last) & others
        if len(flat) >= MANY_POINTS or candidates.sum() <= TOO_MANY * count * len(queries):
            break  # other points are so close that float32 cannot find the nearest
    return candidates


def _squared_distances(flat: Points, queries: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return squared distances ``[queries, points]``, up to a constant for each query, and bounds of their errors.

    a|^2 - 2 ab of points ``[points, d]`` and queries ``[queries, d]``, the queries' mean moved to the origin, where
    rounding hurts least. A sum of n numbers is off by at most n u times that of their absolutes, u half the distance of
    1 to the next number; there are no more than CHUNK + d / CHUNK additions in a row. A product that is too small for
    the type is off by less than its smallest normal number.
    """
    queries = queries.to(dtype)
    centre = queries.mean(dim=0)
    b = _in_chunks(queries - centre)
    products, squares = [], []
    for block in flat.split(max(1, BLOCK_BYTES // (4 * flat.shape[1]))):
        a = _in_chunks(block.to(dtype) - centre)
        products.append(torch.bmm(b, a.mT).sum(dim=0))
        squares.append(a.square().sum(dim=2).sum(dim=0))
    squared, b_squared = torch.cat(squares), b.square().sum(dim=2).sum(dim=0)
    off = (2 * (CHUNK + len(b)) + 16) * torch.finfo(dtype).eps / 2  # of both squares and the product, centre's rounding
    error = (squared.sqrt() + b_squared.sqrt().unsqueeze(1)).square_().mul_(off)
    error += 8 * flat.shape[1] * torch.finfo(dtype).tiny
    return torch.sub(squared, torch.cat(products, dim=1), alpha=2), error


def _in_chunks(rows: Tensor) -> Tensor:
    """Return ``[rows, d]`` as ``[d / CHUNK, rows, CHUNK]``, with zeros at its end."""
    if rows.shape[1] % CHUNK:
        rows = F.pad(rows, (0, -rows.shape[1] % CHUNK))
    return rows.unflatten(1, (-1, CHUNK)).transpose(0, 1)
