"""Network that weighs the channels of image features by a softmax, as Fed-MP's adapter does.

a(x) = norm(softmax(W2 tanh(W1 x + b1) + b2) * x). Source: nets/model.py of huiminzeng/Fed-MP.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from promptfleet.methods.protocol import State


def channel_gate_shapes(dim: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of the network."""
    return {"inner": (dim, dim), "inner_bias": (dim,), "outer": (dim, dim), "outer_bias": (dim,)}


def init_channel_gate(dim: int, rng: np.random.Generator) -> State:
    """Draw weights and biases uniformly within 1 / sqrt(dim), as torch does for a linear layer."""
    shapes = channel_gate_shapes(dim).items()
    return {name: torch.from_numpy(rng.uniform(-1, 1, shape).astype(np.float32)) * dim**-0.5 for name, shape in shapes}


def gated(network: State, features: Tensor) -> Tensor:
    """Return the weighed features ``[..., dim]``, unit norm."""
    hidden = torch.tanh(F.linear(features, network["inner"], network["inner_bias"]))
    weights = torch.softmax(F.linear(hidden, network["outer"], network["outer_bias"]), dim=-1)
    return F.normalize(weights * features, dim=-1)
