"""Shares of a GPU as Ray counts them."""

import math

PRECISION = 10_000  # Ray counts in ten-thousandths


def share_of(actors_per_gpu: int, rest: float = 1.0) -> float:
    """Return an n-th of ``rest``, rounded down to Ray's steps, so that n of them never exceed it."""
    return math.floor(PRECISION * rest / actors_per_gpu + 1e-6) / PRECISION
