"""Sparse tensors under boolean masks: their values, their dense form, and the choice of entries."""

import numpy as np
import torch
from torch import Tensor

from promptfleet.devices import from_numpy


def dense(values: Tensor, masks: Tensor) -> Tensor:
    """Return ``values [entries]`` at the true places of ``masks``, in their order, and zeros elsewhere."""
    return torch.zeros(masks.shape, device=masks.device).masked_scatter(masks, values)


def lowest(scores: Tensor, count: int, rng: np.random.Generator) -> Tensor:
    """Return a mask of the ``count`` lowest of ``scores``; ``rng`` decides among equal ones."""
    order = from_numpy(rng.permutation(scores.numel()), scores.device)
    chosen = order[scores.flatten()[order].argsort(stable=True)[:count]]
    return torch.zeros_like(scores, dtype=torch.bool).flatten().index_fill(0, chosen, True).view_as(scores)
