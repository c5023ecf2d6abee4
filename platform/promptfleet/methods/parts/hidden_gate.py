"""Gate with a hidden layer, from an image's features to the weights of experts that have fixed ids.

The logits are W2 relu(W1 f sqrt(dim) + b1) + b2: unit features have entries too small for a network's usual start.
"""

from math import sqrt

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from promptfleet.methods.parts.gates import GATE
from promptfleet.methods.protocol import State


def gate_shapes(dim: int, hidden: int, experts: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of a gate."""
    shapes = {"down": (hidden, dim), "down_bias": (hidden,), "up": (experts, hidden), "up_bias": (experts,)}
    return {GATE + name: shape for name, shape in shapes.items()}


def init_gate(dim: int, hidden: int, experts: int, rng: np.random.Generator) -> State:
    """Draw every tensor uniformly in +-1/sqrt(inputs), as ``torch.nn.Linear`` starts."""
    return {
        name: torch.from_numpy(rng.uniform(-1, 1, shape).astype(np.float32)) / sqrt(dim if "down" in name else hidden)
        for name, shape in gate_shapes(dim, hidden, experts).items()
    }


def gate_logits(gate: State, features: Tensor) -> Tensor:
    """Return the gate's logits ``[images, experts]`` of unit ``features [images, dim]``."""
    inputs = features * sqrt(features.shape[-1])
    hidden = F.relu(F.linear(inputs, gate[f"{GATE}down"], gate[f"{GATE}down_bias"]))
    return F.linear(hidden, gate[f"{GATE}up"], gate[f"{GATE}up_bias"])
