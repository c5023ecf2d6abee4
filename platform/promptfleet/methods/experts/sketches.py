"""Sketches: a few numbers for each point, with distances no larger than those of the points.

A sketch holds a point's coordinates along orthonormal directions and, last, the norm of what these leave of it. With
x - c = B s + q for a centre c and directions B, q orthogonal to them, |x - y|^2 = |s_x - s_y|^2 + |q_x - q_y|^2. That
is at least |s_x - s_y|^2 + (|q_x| - |q_y|)^2, the squared distance of the two sketches.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from promptfleet.methods.experts.nearest import Points

WIDTH = 64
SAMPLE = 512  # points that the directions are learned from
BLOCK_BYTES = 2**22  # numbers of points in float64: as many as fit the processor's caches
GROUP, AT_ONCE = 16, 2**13  # sketches with a bound in common; their bounds fit the caches
ROUNDING = 2 * WIDTH * torch.finfo(torch.float32).eps  # see ``lower_bounds``


def principal_frame(points: Points, held: Tensor, rng: np.random.Generator) -> Tensor:
    """Return a frame ``[WIDTH, d]`` of the points ``[points, ...]`` that are ``held [points]``: centre, directions.

    They are the mean and the principal directions of a sample; if it has fewer than ``WIDTH - 1``, the rest is zero.
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


def sketch(points: Points, frame: Tensor) -> Tensor:
    """Return sketches ``[points, WIDTH]``, float32, of points ``[points, ...]`` by a frame ``[WIDTH, d]``."""
    centre, directions = frame[0].double(), frame[1:].double()
    sketches = torch.empty(len(points), WIDTH)
    size = max(1, BLOCK_BYTES // (8 * len(centre)))
    for block, out in zip(points.flatten(1).split(size), sketches.split(size), strict=True):
        away = block.double() - centre
        out[:, :-1] = away @ directions.T
        out[:, -1] = (away - out[:, :-1].double() @ directions).norm(dim=1)
    return sketches


def updated_sketches(
    frame: Tensor, sketches: Tensor, contexts: Points, rounds_before: Tensor, rounds: Tensor, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Return frame ``[WIDTH, numbers]`` and sketches ``[clients, WIDTH]`` of a pool with a round's new uploads.

    Both are computed again after rounds 1, 2, 4, 8, ..., or the next one with uploads, since prompts move, if ever
    less; after other rounds only the sketches of new uploads are. ``rounds_before`` and ``rounds [clients]`` are those
    of each client's upload, without and with this round.
    """
    now = int(rounds.max())
    if now.bit_length() > int(rounds_before.max()).bit_length():
        frame = principal_frame(contexts, rounds > 0, rng)
        return frame, sketch(contexts, frame)
    new = (rounds == now).nonzero().flatten()
    return frame, sketches.index_copy(0, new, sketch(contexts[new], frame))


def lower_bounds(sketches: Tensor, asking: Tensor) -> tuple[Tensor, Tensor]:
    """Return lower bounds on squared distances, as two terms to add.

    From points with ``sketches [points, WIDTH]`` to others with sketches ``asking [queries, WIDTH]``. Returns
    ``[points, queries]`` in float32, minus infinity where that overflows, and ``[queries]`` in float64.

    |a|^2 - 2 ab and |b|^2 of sketches a and b are the distance, and rounding is off by less than ``ROUNDING`` times
    (|a| + |b|)^2, at most twice |a|^2 + |b|^2: that of products and sums of WIDTH numbers, and of the sketches and
    directions themselves, which are float32.
    """
    squares = sketches.norm(dim=1).square_().mul_(1 - 2 * ROUNDING).nan_to_num_(nan=-torch.inf, posinf=-torch.inf)
    bounds = torch.addmm(squares.unsqueeze(1), sketches, asking.T, alpha=-2)
    return (
        bounds.nan_to_num_(nan=-torch.inf, neginf=-torch.inf),
        asking.double().square().sum(dim=1).mul_(1 - 2 * ROUNDING),
    )


def lowest_bounds(sketches: Tensor, among: Tensor, asking: Tensor) -> Tensor:
    """Return ``[queries, groups]``: the lowest bound of each ``GROUP`` consecutive points, without the query's term.

    Points that are not ``among [points]`` do not count; infinite for a group without any.
    """
    lowest = []
    for block, there in zip(sketches.split(AT_ONCE), among.split(AT_ONCE), strict=True):
        bounds = lower_bounds(block, asking)[0].masked_fill_(~there.unsqueeze(1), torch.inf)
        bounds = F.pad(bounds, (0, 0, 0, -len(bounds) % GROUP), value=torch.inf)
        lowest.append(bounds.unflatten(0, (-1, GROUP)).amin(dim=1))
    return torch.cat(lowest).T.contiguous()
