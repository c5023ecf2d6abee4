"""Arithmetic of CLIP's transformers, of text and of images, as plain frozen tensors.

Clients run them thousands of times but never open_clip itself, whose import alone takes seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

TransformerT = TypeVar("TransformerT", bound="Transformer")
LAYER_NORM_EPS = 1e-5
_MAPS = ("attn.in_proj_", "attn.out_proj.", "mlp.c_fc.", "mlp.c_proj.")
_LINEAR = tuple(f"{name}{kind}" for name in _MAPS for kind in ("weight", "bias"))
_LINEAR_ALONE = ("text_projection", "conv1.weight", "proj")


@dataclass(frozen=True)
class Transformer:
    """Pre-norm transformer, whose blocks have open_clip's names ``transformer.resblocks.{i}.*`` in ``weights``.

    ``weights`` also has ``positional_embedding [positions, width]``. Nothing in it is trained. Weights of blocks may
    have a first dimension of rows: then each row of the input has its own.
    """

    weights: Mapping[str, Tensor]
    layers: int
    heads: int
    quick_gelu: bool
    _lowered: dict[torch.dtype, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def positions(self) -> int:
        return self.weights["positional_embedding"].shape[0]

    @property
    def width(self) -> int:
        """Width of a token."""
        return self.weights["positional_embedding"].shape[1]

    def to(self: TransformerT, device: torch.device | str) -> TransformerT:
        return replace(self, weights={name: tensor.to(device) for name, tensor in self.weights.items()})

    @torch.inference_mode(False)  # training may later use tensors that are made for a prediction
    def lowered(self: TransformerT, dtype: torch.dtype) -> TransformerT:
        """Return the same tower for autocast to ``dtype``, its linear maps cast once instead of at each use."""
        if dtype not in self._lowered:
            weights = {
                name: tensor.to(dtype) if name.endswith(_LINEAR) or name in _LINEAR_ALONE else tensor
                for name, tensor in self.weights.items()
            }
            self._lowered[dtype] = replace(self, weights=weights)
        return self._lowered[dtype]

    def queries_keys_values(self, layer: int, x: Tensor) -> Tensor:
        """Return the attention's input for ``x [rows, tokens, width]``: ``[rows, tokens, 3 * width]``."""
        return self._linear(f"transformer.resblocks.{layer}.attn.in_proj", self._norm(layer, 1, x), join="_")

    def after_attention(self, layer: int, x: Tensor, mixed: Tensor) -> Tensor:
        """Add the attention's output ``mixed``, then the MLP's, to ``x``; all ``[rows, tokens, width]``."""
        name = f"transformer.resblocks.{layer}"
        x = x + self._linear(f"{name}.attn.out_proj", mixed)
        hidden = self._linear(f"{name}.mlp.c_fc", self._norm(layer, 2, x))
        hidden = hidden * torch.sigmoid(1.702 * hidden) if self.quick_gelu else F.gelu(hidden)
        return x + self._linear(f"{name}.mlp.c_proj", hidden)

    def split_heads(self, x: Tensor) -> Tensor:
        """Return ``[..., tokens, width]`` as ``[..., heads, tokens, width / heads]``.

        Contiguous: products of it then take the same path, and give the same bits, for one row and for many.
        """
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2).contiguous()

    def join_heads(self, x: Tensor) -> Tensor:
        """Undo ``split_heads``."""
        return x.transpose(-3, -2).flatten(-2)

    def _linear(self, name: str, x: Tensor, join: str = ".") -> Tensor:
        """Multiply row by row, all products of one shape: a row's result does not depend on the number of rows."""
        weight, bias = self.weights[f"{name}{join}weight"], self.weights[f"{name}{join}bias"]
        return torch.baddbmm(bias.unsqueeze(-2).expand(x.shape[0], 1, -1), x, weight.mT.expand(x.shape[0], -1, -1))

    def _norm(self, layer: int, number: int, x: Tensor) -> Tensor:
        return self._layer_norm(f"transformer.resblocks.{layer}.ln_{number}", x)

    def _layer_norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        if weight.dim() == 2:
            return torch.addcmul(
                bias.unsqueeze(1), F.layer_norm(x, (self.width,), eps=LAYER_NORM_EPS), weight.unsqueeze(1)
            )
        return F.layer_norm(x, (self.width,), weight, bias, LAYER_NORM_EPS)


def block_keys(layers: int) -> list[str]:
    """Return the names of the weights of a transformer's blocks."""
    parts = ["ln_1", "ln_2", "attn.out_proj", "mlp.c_fc", "mlp.c_proj"]
    keys = []
    for block in (f"transformer.resblocks.{layer}" for layer in range(layers)):
        keys += [f"{block}.attn.in_proj_weight", f"{block}.attn.in_proj_bias"]
        keys += [f"{block}.{part}.{kind}" for part in parts for kind in ("weight", "bias")]
    return keys
