"""CLIP's vision transformer as plain frozen tensors, with tokens of a method's own before any of its blocks.

Gradients flow to pixels and to inserted tokens alone. Products run image by image, so an image's feature has the same
bits alone and among those of others.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from promptfleet.clip.transformer import Transformer, block_keys
from promptfleet.errors import BackboneError

_NOTHING: Mapping[int, Tensor] = {}
_BLOCK_WIDTHS = 10  # of values that a block keeps per token
_SIZES = {"layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size"}
_NEUTRAL = (None, False, 0, {}, "tok", "learnable", "default")  # values of other keys that change nothing
_ONLY_IN_TRAINING = {"patch_dropout", "output_tokens", "attn_pooler_queries", "attn_pooler_heads"}


@dataclass(frozen=True)
class VisionTower(Transformer):
    """Pre-norm vision transformer whose feature is read at its class token.

    ``weights`` holds, by open_clip's names: ``conv1.weight [width, 3, height, width]`` of a patch, ``class_embedding``,
    ``positional_embedding [1 + patches, width]``, ``ln_pre.*``, ``ln_post.*``, ``proj [width, dim]`` and
    ``transformer.resblocks.{i}.*``.
    """

    @property
    def dim(self) -> int:
        """Width D of the joint embedding."""
        return self.weights["proj"].shape[1]

    @property
    def patch_pixels(self) -> int:
        """Number of pixels of a patch."""
        return self.weights["conv1.weight"][0, 0].numel()

    @property
    def activation_bytes(self) -> int:
        """Bytes, about, that an image's float32 forward pass keeps for its gradients."""
        return 4 * self.layers * self.positions * (_BLOCK_WIDTHS * self.width + self.heads * self.positions)

    def embed(self, pixels: Tensor) -> Tensor:
        """Return the class token and the patches of ``pixels [images, 3, height, width]``: ``[images, tokens, width]``.

        Positions are added here, so tokens that are inserted later have none.
        """
        weight, images = self.weights["conv1.weight"], pixels.shape[0]
        rows, columns = weight.shape[2:]
        cells = pixels.unflatten(2, (-1, rows)).unflatten(4, (-1, columns))  # [images, 3, down, rows, across, columns]
        patches = cells.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        patches = torch.bmm(patches, weight.flatten(1).T.expand(images, -1, -1))
        first = self.weights["class_embedding"].to(patches.dtype).expand(images, 1, -1)
        return self._layer_norm("ln_pre", torch.cat([first, patches], dim=1) + self.weights["positional_embedding"])

    def block(self, layer: int, x: Tensor, wanted: int | None = None) -> Tensor:
        """Return the first ``wanted`` tokens (default: all) of ``x [images, tokens, width]`` after a block."""
        queries, keys, values = self.queries_keys_values(layer, x).chunk(3, dim=-1)
        queries, keys, values = map(self.split_heads, (queries[:, :wanted], keys, values))
        scores = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(-1, -2)
        mixed = torch.softmax(scores, dim=-1) @ values
        return self.after_attention(layer, x[:, :wanted], self.join_heads(mixed))

    def last_norm(self, x: Tensor) -> Tensor:
        """Return tokens ``[images, tokens, width]`` after the norm that comes last."""
        return self._layer_norm("ln_post", x)

    def project(self, x: Tensor) -> Tensor:
        """Return unit-norm features ``[images, dim]`` of normed tokens ``x [images, width]``."""
        projection = self.weights["proj"].expand(x.shape[0], -1, -1)
        return F.normalize((x.unsqueeze(1) @ projection).squeeze(1).to(x.dtype), dim=-1)


def encode_tokens(
    tower: VisionTower,
    pixels: Tensor,
    inserted: Mapping[int, Tensor] = _NOTHING,
    *,
    wanted: int = 1,
    blocks: int | None = None,
) -> Tensor:
    """Return the first ``wanted`` tokens ``[images, wanted, width]`` after ``blocks`` (default: all) and the last norm.

    ``inserted[i] [images, tokens, width]`` come right after the class token before block i, and stay: those of later
    blocks come before those of earlier ones.
    """
    x, last = tower.embed(pixels), (tower.layers if blocks is None else blocks) - 1
    for layer in range(last + 1):
        if layer in inserted:
            x = torch.cat([x[:, :1], inserted[layer].to(x.dtype), x[:, 1:]], dim=1)
        x = tower.block(layer, x, wanted if layer == last else None)
    return tower.last_norm(x)


def encode_pixels(
    tower: VisionTower, pixels: Tensor, inserted: Mapping[int, Tensor] = _NOTHING, *, pooled: int = 1
) -> Tensor:
    """Return unit-norm features ``[images, dim]`` of the mean of the first ``pooled`` tokens, see ``encode_tokens``."""
    return tower.project(encode_tokens(tower, pixels, inserted, wanted=pooled).mean(dim=1))


def vision_tower_of(
    weights: Mapping[str, Tensor], architecture: Mapping[str, Any], name: str = "this model"
) -> VisionTower:
    """Make the tower of an image tower's weights; ``architecture`` is as in open_clip's model files.

    Raises BackboneError if it is not CLIP's standard vision transformer.
    """
    vision = architecture["vision_cfg"]
    if isinstance(vision.get("layers"), list | tuple):
        raise BackboneError(
            f"backbone {name!r}: its image tower is a ModifiedResNet, which has no tokens; take a vision transformer, "
            f"such as ViT-B-16"
        )
    if vision.get("timm_model_name"):
        raise BackboneError(
            f"backbone {name!r}: its image tower is timm's {vision['timm_model_name']}, not open_clip's"
        )
    ignored = _SIZES | _ONLY_IN_TRAINING | {key for key in vision if key.startswith("timm_")}
    other = [key for key, value in vision.items() if key not in ignored and value not in _NEUTRAL]
    layers, heads = vision.get("layers", 12), vision.get("width", 768) // vision.get("head_width", 64)
    wanted = ["class_embedding", "positional_embedding", "proj", "conv1.weight", *block_keys(layers)]
    wanted += [f"{norm}.{kind}" for norm in ("ln_pre", "ln_post") for kind in ("weight", "bias")]
    other += sorted(weights.keys() ^ {*wanted})
    if other:
        raise BackboneError(f"backbone {name!r}: unsupported image tower ({other[0]})")
    return VisionTower(weights, layers, heads, bool(architecture.get("quick_gelu", False)))
