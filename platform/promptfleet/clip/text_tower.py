"""CLIP's text transformer as plain frozen tensors, and the arithmetic of its parts.

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

    def queries_keys_values(self, layer: int, x: Tensor) -> Tensor:
        """What attention of ``x [rows, tokens, width]`` works on: ``[rows, tokens, 3 * width]``, queries unscaled."""
        return self._linear(f"transformer.resblocks.{layer}.attn.in_proj", self._norm(layer, 1, x), join="_")

    def after_attention(self, layer: int, x: Tensor, mixed: Tensor) -> Tensor:
        """Add the attention's output ``mixed``, then the MLP's, to ``x``; all ``[rows, tokens, width]``."""
        name = f"transformer.resblocks.{layer}"
        x = x + self._linear(f"{name}.attn.out_proj", mixed)
        hidden = self._linear(f"{name}.mlp.c_fc", self._norm(layer, 2, x))
        hidden = hidden * torch.sigmoid(1.702 * hidden) if self.quick_gelu else F.gelu(hidden)
        return x + self._linear(f"{name}.mlp.c_proj", hidden)

    def project(self, x: Tensor) -> Tensor:
        """Text features ``[rows, tokens, dim]`` with unit norm, of end-of-text tokens ``[rows, tokens, width]``."""
        projection = self.weights["text_projection"].expand(x.shape[0], -1, -1)
        return F.normalize((self._layer_norm("ln_final", x) @ projection).float(), dim=-1)

    def split_heads(self, x: Tensor) -> Tensor:
        """``[..., tokens, width] -> [..., heads, tokens, width / heads]``.

        Contiguous: products of it then take the same path, and give the same bits, for one row and for many.
        """
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2).contiguous()

    def join_heads(self, x: Tensor) -> Tensor:
        """Undo ``split_heads``."""
        return x.transpose(-3, -2).flatten(-2)

    def _linear(self, name: str, x: Tensor, join: str = ".") -> Tensor:
        """One product per row, all of the same shape: a row's result does not depend on how many are beside it."""
        weight, bias = self.weights[f"{name}{join}weight"], self.weights[f"{name}{join}bias"]
        return torch.baddbmm(bias.expand(x.shape[0], 1, -1), x, weight.T.expand(x.shape[0], -1, -1))

    def _norm(self, layer: int, number: int, x: Tensor) -> Tensor:
        return self._layer_norm(f"transformer.resblocks.{layer}.ln_{number}", x)

    def _layer_norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return F.layer_norm(x, (self.width,), weight, bias, LAYER_NORM_EPS)
