"""Gates: small networks that weigh a client's experts for each image.

A gate is a frozen description; its numbers are the tensors ``gate.*`` of a ``State``. Images are unit features
``[batch, dim]``; experts are text features ``[experts, classes, dim]``, the client's own expert first.

Source: Luo, Chen, Wu, ICLR 2025 (arXiv:2410.10114), attention-based gating network, and Table 7, "linear projection".
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from promptfleet.config import FederationConfig
from promptfleet.errors import ConfigError
from promptfleet.methods.protocol import State

GATE = "gate."
PROJECTIONS = ("query", "key", "value", "output")


class GateConfig(FederationConfig):
    """The keys of a method with a gate."""

    gate: Literal["attention", "linear"] = Field(
        "attention", description="attention over the experts, or a linear map from the image to their weights"
    )
    gating_temperature: float = Field(
        0.1, gt=0, description="softmax temperature of the attention gate (published: 0.1)"
    )
    gate_width: int = Field(64, ge=1, description="width of the reduced features in the gate (published: 128)")
    gate_heads: int = Field(8, ge=1, description="heads of the attention gate; must divide gate_width")

    @model_validator(mode="after")
    def _check_heads(self) -> "GateConfig":
        if self.gate_width % self.gate_heads:
            raise ValueError(f"gate_heads={self.gate_heads} must divide gate_width={self.gate_width}")
        return self


class Gate(Protocol):
    """A way to weigh experts, on features that are reduced to ``width`` entries."""

    @property
    def width(self) -> int:
        """Entries of the reduced features."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor of the gate's state."""

    def weights(self, state: State, images: Tensor, experts: Tensor) -> Tensor:
        """Return the weights of experts ``[batch, ..., experts]``, which sum to one."""

    def scores(self, state: State, images: Tensor, experts: Tensor) -> Tensor:
        """Return the dot products ``[batch, classes]`` of each image and its mixture of experts."""


@dataclass(frozen=True)
class AttentionGate:
    """Multi-head attention over experts, one set of weights per image, class and head.

    The image is the query, the experts' features of one class are keys and values. All four projections have a bias,
    and one gate serves all classes. Attention is softmax(<q, k> / temperature); the published constant 10 is a
    temperature of 0.1. ``heads`` must divide ``width``.
    """

    width: int
    heads: int
    temperature: float

    def shapes(self) -> dict[str, tuple[int, ...]]:
        kinds = {"weight": (self.width, self.width), "bias": (self.width,)}
        return {f"{GATE}{name}.{kind}": shape for name in PROJECTIONS for kind, shape in kinds.items()}

    def weights(self, state: State, images: Tensor, experts: Tensor) -> Tensor:
        """Return ``[batch, classes, heads, experts]``."""
        queries = self._project("query", state, reduce_width(images, self.width))
        keys = self._project("key", state, reduce_width(experts, self.width))
        return torch.softmax(torch.einsum("bhd,echd->bche", queries, keys) / self.temperature, dim=-1)

    def scores(self, state: State, images: Tensor, experts: Tensor) -> Tensor:
        """Return the scores without forming a mixture, a vector per image and class.

        <image, W_o mix + b_o> is computed as <W_o^T image, mix> + <image, b_o>, with the reduced image.
        """
        weights, image = self.weights(state, images, experts), reduce_width(images, self.width)
        values = self._project("value", state, reduce_width(experts, self.width))
        probes = (image @ state[f"{GATE}output.weight"]).unflatten(-1, (self.heads, -1))
        scores = (weights * torch.einsum("bhd,echd->bche", probes, values)).sum(dim=(-1, -2))
        return scores + (image @ state[f"{GATE}output.bias"]).unsqueeze(-1)

    def _project(self, name: str, state: State, features: Tensor) -> Tensor:
        projected = F.linear(features, *(state[f"{GATE}{name}.{kind}"] for kind in ("weight", "bias")))
        return projected.unflatten(-1, (self.heads, -1))


@dataclass(frozen=True)
class LinearGate:
    """A linear map from the image to one weight per expert: the plainer gate of the paper's ablation.

    Its exact form is unverified; this is the usual gate of a mixture of experts. Output 0 is the client's own expert,
    output e the e-th of a round's selection, and outputs without an expert are unused. Experts have no identity, which
    the attention gate does not need, since it looks at the experts themselves. They are mixed at their full width.
    """

    width: int
    experts: int

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {f"{GATE}weight": (self.experts, self.width), f"{GATE}bias": (self.experts,)}

    def weights(self, state: State, images: Tensor, experts: Tensor) -> Tensor:
        """Return ``[batch, experts]``."""
        weight, bias = (state[f"{GATE}{kind}"][: len(experts)] for kind in ("weight", "bias"))
        return torch.softmax(F.linear(reduce_width(images, self.width), weight, bias), dim=-1)

    def scores(self, state: State, images: Tensor, experts: Tensor) -> Tensor:
        return torch.einsum("be,bd,ecd->bc", self.weights(state, images, experts), images, experts)


def check_width(config: GateConfig, dim: int) -> None:
    """Raise ConfigError if the gate is wider than features of ``dim`` entries."""
    if config.gate_width > dim:
        raise ConfigError(f"gate_width={config.gate_width} exceeds the backbone's feature width {dim}")


def make_gate(config: GateConfig, experts: int) -> Gate:
    """Return the gate that the configuration describes, for at most this many experts, the client's own included."""
    if config.gate == "linear":
        return LinearGate(config.gate_width, experts)
    return AttentionGate(config.gate_width, config.gate_heads, config.gating_temperature)


def init_gate(gate: Gate, rng: np.random.Generator) -> State:
    """Draw every tensor uniformly in +-1/sqrt(width), as ``torch.nn.Linear`` starts."""
    bound = gate.width**-0.5
    return {
        name: torch.from_numpy(rng.uniform(-bound, bound, shape).astype(np.float32))
        for name, shape in gate.shapes().items()
    }


def gate_tensors(state: State) -> State:
    """Return the part of a state that is a gate; empty if there is none."""
    return {name: tensor for name, tensor in state.items() if name.startswith(GATE)}


def reduce_width(features: Tensor, width: int) -> Tensor:
    """Keep every ``dim // width``-th entry: ``[..., dim] -> [..., width]``, not normalized again (as published)."""
    return features[..., :: features.shape[-1] // width][..., :width]
