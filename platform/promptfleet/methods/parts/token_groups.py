"""Tokens within an image tower, shared ones and those of groups, and the choice of a group for each image (SGPT)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def similarities(queries: Tensor, keys: Tensor) -> Tensor:
    """Return the cosines ``[images, groups]`` of queries and keys; 0 for a query of zeros."""
    return F.normalize(queries, dim=-1) @ F.normalize(keys, dim=-1).T


def penalized_choice(similarity: Tensor, counts: Tensor, floor: float) -> Tensor:
    """Return the group of each image ``[images]``, where groups that were chosen often are less likely."""
    shares = counts / counts.sum().clamp(min=1)
    penalty = torch.where(counts.sum() > 0, shares + floor, 1.0)
    return ((1 - similarity) * penalty).argmin(dim=1)


def uses(chosen: Tensor, groups: int) -> Tensor:
    """Return how often each group was chosen, int64 ``[groups]``."""
    return (chosen.unsqueeze(1) == torch.arange(groups, device=chosen.device)).sum(dim=0)


def shared_tokens(shared: Tensor, images: int) -> dict[int, Tensor]:
    """Return the shared token of each block for every image."""
    return {block: token.expand(images, -1, -1) for block, token in enumerate(shared)}


def all_tokens(shared: Tensor, group: Tensor, chosen: Tensor) -> dict[int, Tensor]:
    """Return shared tokens, and after them those of the ``chosen`` groups [images], by block."""
    of_groups = {len(shared) + row: tokens[chosen].unsqueeze(1) for row, tokens in enumerate(group)}
    return shared_tokens(shared, len(chosen)) | of_groups
