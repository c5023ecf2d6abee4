"""Points in a few numbers each that are no farther apart than the points themselves.

A sketch holds a point's coordinates along orthonormal directions and, last, the norm of what these leave of it. With
x - c = B s + q for a centre c and directions B, q orthogonal to them, |x - y|^2 = |s_x - s_y|^2 + |q_x - q_y|^2. That
is at least |s_x - s_y|^2 + (|q_x| - |q_y|)^2, the squared distance of the two sketches.
"""

import numpy as np
import torch
from torch import Tensor

WIDTH = 64
SAMPLE = 512  # points that the directions are learned from
BLOCK_BYTES = 2**22  # of points in float64: what fits the processor's caches
ROUNDING = 2 * WIDTH * torch.finfo(torch.float32).eps  # see ``lower_bounds``


def principal_frame(points: Tensor, held: Tensor, rng: np.random.Generator) -> Tensor:
    """A frame ``[WIDTH, d]`` for those of the points ``[points, ...]`` that are ``held [points]``: centre, directions.

    They are the mean and the principal directions of a sample; where it has fewer than ``WIDTH - 1``, the rest is zero.
    """
    ids = held.nonzero().flatten().numpy()
    sample = points[np.sort(rng.choice(ids, min(SAMPLE, len(ids)), replace=False))].flatten(1).double()
    centre = sample.mean(dim=0)
    sample -= centre
    strongest = torch.linalg.eigh(sample @ sample.T).eigenvectors.flip(1)[:, : WIDTH - 1]
    directions = torch.linalg.qr(sample.T @ strongest).Q.T
    frame = torch.zeros(WIDTH, len(centre))
    frame[0], frame[1 : 1 + len(directions)] = centre, directions
    return frame


def sketch(points: Tensor, frame: Tensor) -> Tensor:
    """``[points, WIDTH]``, float32, of points ``[points, ...]`` by a frame ``[WIDTH, d]``."""
    centre, directions = frame[0].double(), frame[1:].double()
    sketches = torch.empty(len(points), WIDTH)
    size = max(1, BLOCK_BYTES // (8 * len(centre)))
    for block, out in zip(points.flatten(1).split(size), sketches.split(size), strict=True):
        away = block.double() - centre
        out[:, :-1] = away @ directions.T
        out[:, -1] = (away - out[:, :-1].double() @ directions).norm(dim=1)
    return sketches


def lower_bounds(sketches: Tensor, among: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    """Of each query's squared distance to every point no more than it is, in two parts to be added.

    sketches ``[points, WIDTH]``, queries are indices of them. Returns ``[queries, points]``, infinite for the query
    itself and all that are not ``among [points]``, and ``[queries]`` in float64.

    |a|^2 - 2 ab and |b|^2 of sketches a and b are the distance, and rounding is off by less than ``ROUNDING`` times
    (|a| + |b|)^2, at most twice |a|^2 + |b|^2: that of products and sums of WIDTH numbers, and of the sketches and
    directions themselves, which are float32.
    """
    asking = sketches[queries]
    squares = sketches.norm(dim=1).square_().mul_(1 - 2 * ROUNDING).nan_to_num_(nan=-torch.inf, posinf=-torch.inf)
    bounds = torch.addmm(squares, asking, sketches.T, alpha=-2).nan_to_num_(nan=-torch.inf, neginf=-torch.inf)
    bounds.masked_fill_(~among, torch.inf)[torch.arange(len(queries)), queries] = torch.inf
    return bounds, asking.double().square().sum(dim=1).mul_(1 - 2 * ROUNDING)
