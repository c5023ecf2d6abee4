"""Attention to the channels of an image's features, and to its patches, which starts as the identity.

single: c(f) = 2 sigmoid(W2 relu(W1 f + b1) + b2) weighs the channels, like squeeze-and-excitation (arXiv:1709.01507)
hybrid: a h is added, with h the mean of the patches x by weights softmax(<u, x> / 0.1)
W2, b2, u and a are 0 at the start.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from promptfleet.methods.protocol import State

TOWARDS_IDENTITY = ("up", "up_bias")  # which weight decay pulls to 0
_SHARPNESS = 10.0  # of the weights of patches


def attention_shapes(dim: int, hidden: int, *, hybrid: bool) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of an attention with ``hidden`` units."""
    single = {"down": (hidden, dim), "down_bias": (hidden,), "up": (dim, hidden), "up_bias": (dim,)}
    return {**single, "scorer": (dim,), "gate": ()} if hybrid else single


def init_attention(dim: int, hidden: int, rng: np.random.Generator, *, hybrid: bool) -> State:
    """Draw W1, normal with standard deviation 1 / sqrt(dim); the rest is 0."""
    shapes = attention_shapes(dim, hidden, hybrid=hybrid)
    down = torch.from_numpy(rng.normal(0.0, dim**-0.5, shapes["down"]).astype(np.float32))
    return {name: torch.zeros(shape) for name, shape in shapes.items()} | {"down": down}


def attended(attention: State, features: Tensor, kept: Tensor | None = None) -> Tensor:
    """Return c(f) f for ``features [..., dim]``, not normalized, with c = 1 + kept (c - 1) under dropout."""
    hidden = F.relu(F.linear(features, attention["down"], attention["down_bias"]))
    weights = 2 * torch.sigmoid(F.linear(hidden, attention["up"], attention["up_bias"]))
    return (weights if kept is None else 1 + kept * (weights - 1)) * features


def seen(attention: State, patches: Tensor) -> Tensor:
    """Return a h ``[images, dim]`` for ``patches [images, patches, dim]``."""
    weights = torch.softmax(_SHARPNESS * patches @ attention["scorer"], dim=-1)
    return attention["gate"] * (weights.unsqueeze(-1) * patches).sum(dim=-2)
