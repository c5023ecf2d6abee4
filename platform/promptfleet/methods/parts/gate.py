"""pFedMoAP's attention gate: per image and class, how much each expert's text feature counts.

Source: Luo, Chen, Wu, ICLR 2025 (arXiv:2410.10114), attention-based gating network. The image feature is the query,
the experts' text features of one class are keys and values, all four projections have a bias, and one gate serves all
classes.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from promptfleet.methods.protocol import State

PROJECTIONS = ("query", "key", "value", "output")


def init_gate(width: int, rng: np.random.Generator) -> State:
    """Four linear maps ``[width, width]`` with bias, uniform in +-1/sqrt(width) as ``torch.nn.Linear`` starts."""
    bound = width**-0.5

    def uniform(*shape: int) -> Tensor:
        return torch.from_numpy(rng.uniform(-bound, bound, shape).astype(np.float32))

    gate: State = {}
    for name in PROJECTIONS:
        gate[f"{name}.weight"] = uniform(width, width)
        gate[f"{name}.bias"] = uniform(width)
    return gate


def reduce_width(features: Tensor, width: int) -> Tensor:
    """Keep every ``dim // width``-th entry: ``[..., dim] -> [..., width]``, not normalized again (as published)."""
    return features[..., :: features.shape[-1] // width][..., :width]


def gate_weights(gate: State, image: Tensor, experts: Tensor, *, heads: int, temperature: float) -> Tensor:
    """Attention ``[batch, classes, heads, experts]``, summing to one over experts.

    image ``[batch, width]`` and experts ``[experts, classes, width]`` are reduced features; the attention is
    softmax(<q, k> / temperature). The published constant 10 is a temperature of 0.1.
    """
    queries = F.linear(image, gate["query.weight"], gate["query.bias"]).unflatten(-1, (heads, -1))
    keys = F.linear(experts, gate["key.weight"], gate["key.bias"]).unflatten(-1, (heads, -1))
    return torch.softmax(torch.einsum("bhd,echd->bche", queries, keys) / temperature, dim=-1)


def gate_scores(gate: State, image: Tensor, experts: Tensor, *, heads: int, temperature: float) -> Tensor:
    """Dot products ``[batch, classes]`` of the reduced image feature with its gated mixture of experts.

    <image, W_o mix + b_o> is computed as <W_o^T image, mix> + <image, b_o>, so the mixture, a vector per image and
    class, is never formed.
    """
    weights = gate_weights(gate, image, experts, heads=heads, temperature=temperature)
    values = F.linear(experts, gate["value.weight"], gate["value.bias"]).unflatten(-1, (heads, -1))
    probes = (image @ gate["output.weight"]).unflatten(-1, (heads, -1))
    scores = (weights * torch.einsum("bhd,echd->bche", probes, values)).sum(dim=(-1, -2))
    return scores + (image @ gate["output.bias"]).unsqueeze(-1)
