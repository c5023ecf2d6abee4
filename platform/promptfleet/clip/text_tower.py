"""CLIP's text transformer as plain frozen tensors, and the arithmetic of one layer.

Clients run the text tower thousands of times but never open_clip itself, whose import alone takes seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

LAYER_NORM_EPS = 1e-5


@dataclass(frozen=True)
class TextTower:
    """A causal, pre-norm text transformer whose feature is read at the end-of-text token.

    ``weights`` holds, by open_clip's names: ``positional_embedding [positions, width]``, ``ln_final.*``,
    ``text_projection [width, dim]``, ``transformer.resblocks.{i}.*`` and, where whole texts are to be encoded,
    ``token_embedding.weight [vocabulary, width]``. Nothing in it is trained.
    """

    weights: Mapping[str, Tensor]
    layers: int
    heads: int
    quick_gelu: bool

    @property
    def positions(self) -> int:
        return self.weights["positional_embedding"].shape[0]

    @property
    def width(self) -> int:
        """Width d of a token, and of a learnable context vector."""
        return self.weights["positional_embedding"].shape[1]

    @property
    def dim(self) -> int:
        """Width D of the joint embedding."""
        return self.weights["text_projection"].shape[1]

    def to(self, device: torch.device | str) -> "TextTower":
        weights = {name: tensor.to(device) for name, tensor in self.weights.items()}
        return TextTower(weights, self.layers, self.heads, self.quick_gelu)

    def queries(self, layer: int, hidden: Tensor) -> Tensor:
        """Queries ``[..., heads, tokens, head_dim]``, already scaled, of normalized ``hidden [..., tokens, width]``."""
        weight, bias = self._projection(layer, 0)
        return self._split_heads(F.linear(hidden, weight, bias)) * (self.width // self.heads) ** -0.5

    def keys(self, layer: int, hidden: Tensor) -> Tensor:
        return self._split_heads(F.linear(hidden, *self._projection(layer, 1)))

    def values(self, layer: int, hidden: Tensor) -> Tensor:
        return self._split_heads(F.linear(hidden, *self._projection(layer, 2)))

    def norm_before_attention(self, layer: int, x: Tensor) -> Tensor:
        return self._layer_norm(f"transformer.resblocks.{layer}.ln_1", x)

    def after_attention(self, layer: int, x: Tensor, mixed: Tensor) -> Tensor:
        """Add the attention's output ``mixed [..., heads, tokens, head_dim]`` to ``x``, then the MLP's."""
        name = f"transformer.resblocks.{layer}"
        heads_joined = mixed.transpose(-3, -2).flatten(-2)
        x = x + self._linear(f"{name}.attn.out_proj", heads_joined)
        hidden = self._linear(f"{name}.mlp.c_fc", self._layer_norm(f"{name}.ln_2", x))
        hidden = hidden * torch.sigmoid(1.702 * hidden) if self.quick_gelu else F.gelu(hidden)
        return x + self._linear(f"{name}.mlp.c_proj", hidden)

    def project(self, x: Tensor) -> Tensor:
        """Text features ``[..., dim]`` with unit norm, of the end-of-text tokens ``[..., width]``."""
        return F.normalize(self._layer_norm("ln_final", x) @ self.weights["text_projection"], dim=-1)

    def _projection(self, layer: int, part: int) -> tuple[Tensor, Tensor]:
        name, rows = f"transformer.resblocks.{layer}.attn.in_proj", slice(part * self.width, (part + 1) * self.width)
        return self.weights[f"{name}_weight"][rows], self.weights[f"{name}_bias"][rows]

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _layer_norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return F.layer_norm(x, (self.width,), weight, bias, LAYER_NORM_EPS)
