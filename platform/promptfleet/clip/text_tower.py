"""CLIP's text transformer as plain frozen tensors, and the arithmetic of its parts.

Clients run the text tower thousands of times but never open_clip itself, whose import alone takes seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from promptfleet.errors import BackboneError

LAYER_NORM_EPS = 1e-5
_MAPS = ("attn.in_proj_", "attn.out_proj.", "mlp.c_fc.", "mlp.c_proj.")
_LINEAR = ("text_projection", *(f"{name}{kind}" for name in _MAPS for kind in ("weight", "bias")))


@dataclass(frozen=True)
class TextTower:
    """Causal, pre-norm text transformer whose feature is read at the end-of-text token.

    ``weights`` holds, by open_clip's names: ``positional_embedding [positions, width]``, ``ln_final.*``,
    ``text_projection [width, dim]``, ``transformer.resblocks.{i}.*`` and, for encoding whole texts,
    ``token_embedding.weight [vocabulary, width]``. Nothing in it is trained.
    """

    weights: Mapping[str, Tensor]
    layers: int
    heads: int
    quick_gelu: bool
    _lowered: dict[torch.dtype, "TextTower"] = field(default_factory=dict, init=False, repr=False, compare=False)

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

    @torch.inference_mode(False)  # training may later use tensors that are made for a prediction
    def lowered(self, dtype: torch.dtype) -> "TextTower":
        """Return the same tower for autocast to ``dtype``, its linear maps cast once instead of at each use."""
        if dtype not in self._lowered:
            weights = {
                name: tensor.to(dtype) if name.endswith(_LINEAR) else tensor for name, tensor in self.weights.items()
            }
            self._lowered[dtype] = TextTower(weights, self.layers, self.heads, self.quick_gelu)
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

    def project(self, x: Tensor) -> Tensor:
        """Return unit-norm text features ``[rows, tokens, dim]`` of end-of-text tokens ``[rows, tokens, width]``."""
        projection = self.weights["text_projection"].expand(x.shape[0], -1, -1)
        return F.normalize((self._layer_norm("ln_final", x) @ projection).float(), dim=-1)

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
        return torch.baddbmm(bias.expand(x.shape[0], 1, -1), x, weight.T.expand(x.shape[0], -1, -1))

    def _norm(self, layer: int, number: int, x: Tensor) -> Tensor:
        return self._layer_norm(f"transformer.resblocks.{layer}.ln_{number}", x)

    def _layer_norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return F.layer_norm(x, (self.width,), weight, bias, LAYER_NORM_EPS)


def text_tower_of(model: nn.Module, name: str = "this model") -> TextTower:
    """Take the text tower out of an open_clip model. Raises BackboneError if it is not CLIP's standard one."""
    text = getattr(model, "text", model)
    blocks = getattr(getattr(text, "transformer", None), "resblocks", None)
    if blocks is None:
        raise BackboneError(f"backbone {name!r}: its text tower is not open_clip's own transformer")
    if getattr(text, "attn_mask", None) is None:
        raise BackboneError(f"backbone {name!r}: its text tower is not causal, so prompts cannot share a prefix")
    pooling = getattr(text, "text_pool_type", None) or getattr(text, "pool_type", None)
    if pooling != "argmax":  # "eos" comes with other tokenizers, whose end-of-text id is not the highest
        raise BackboneError(f"backbone {name!r}: text features are pooled by {pooling!r}, not at CLIP's end of text")
    state = {key: tensor.detach() for key, tensor in text.state_dict().items()}
    if "text_projection.weight" in state:
        state["text_projection"] = state["text_projection.weight"].T.contiguous()
    wanted = tower_keys(len(blocks))
    others = ("visual.", "logit_", "text_projection.weight")
    extra = [key for key in state if key not in wanted and not key.startswith(others)]
    missing = [key for key in wanted if key not in state]
    if extra or missing:
        raise BackboneError(f"backbone {name!r}: unsupported text tower ({(extra + missing)[0]})")
    activation, eps = str(blocks[0].mlp.gelu), blocks[0].ln_1.eps
    if activation not in ("QuickGELU()", str(nn.GELU())) or eps != LAYER_NORM_EPS:
        raise BackboneError(f"backbone {name!r}: unsupported text tower ({activation}, layer norm epsilon {eps})")
    weights = {key: state[key] for key in wanted}
    return TextTower(weights, len(blocks), blocks[0].attn.num_heads, quick_gelu=activation == "QuickGELU()")


def tower_keys(layers: int) -> list[str]:
    """Return the names of ``TextTower.weights`` with a token table."""
    parts = ["ln_1", "ln_2", "attn.out_proj", "mlp.c_fc", "mlp.c_proj"]
    keys = ["token_embedding.weight", "positional_embedding", "text_projection", "ln_final.weight", "ln_final.bias"]
    for block in (f"transformer.resblocks.{layer}" for layer in range(layers)):
        keys += [f"{block}.attn.in_proj_weight", f"{block}.attn.in_proj_bias"]
        keys += [f"{block}.{part}.{kind}" for part in parts for kind in ("weight", "bias")]
    return keys
