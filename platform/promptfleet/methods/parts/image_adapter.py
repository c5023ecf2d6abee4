"""Residual network of two layers on image features, which starts as the identity.

a(f) = norm(f + c (W2 relu(W1 f + b1) + b2)), with W2, b1 and b2 0 and c 1 at the start.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from promptfleet.methods.parts.states import prefixed
from promptfleet.methods.protocol import State


def adapter_shapes(dim: int, width: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of an adapter with ``width`` hidden units."""
    shapes = {"down": (width, dim), "down_bias": (width,), "up": (dim, width), "up_bias": (dim,), "scale": ()}
    return prefixed("adapter.", shapes)


def init_adapter(dim: int, width: int, rng: np.random.Generator) -> State:
    """Draw W1, normal with standard deviation 1 / sqrt(dim); the rest has its start."""
    start = {name: torch.zeros(shape) for name, shape in adapter_shapes(dim, width).items()}
    down = rng.normal(0.0, dim**-0.5, (width, dim)).astype(np.float32)
    return {**start, "adapter.down": torch.from_numpy(down), "adapter.scale": torch.ones(())}


def adapted(adapter: State, features: Tensor) -> Tensor:
    """Return the features ``[..., dim]`` after the adapter, unit norm."""
    hidden = F.relu(F.linear(features, adapter["adapter.down"], adapter["adapter.down_bias"]))
    added = F.linear(hidden, adapter["adapter.up"], adapter["adapter.up_bias"])
    return F.normalize(features + adapter["adapter.scale"] * added, dim=-1)
