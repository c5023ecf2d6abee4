"""CLIP's text transformer as plain frozen tensors."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from promptfleet.clip.transformer import LAYER_NORM_EPS, Transformer, block_keys
from promptfleet.errors import BackboneError


@dataclass(frozen=True)
class TextTower(Transformer):
    """Causal, pre-norm text transformer whose feature is read at the end-of-text token.

    ``weights`` holds, by open_clip's names: ``positional_embedding [positions, width]``, ``ln_final.*``,
    ``text_projection [width, dim]``, ``transformer.resblocks.{i}.*`` and, for encoding whole texts,
    ``token_embedding.weight [vocabulary, width]``. Its ``width`` is that of a learnable context vector.
    """

    @property
    def dim(self) -> int:
        """Width D of the joint embedding."""
        return self.weights["text_projection"].shape[1]

    def project(self, x: Tensor) -> Tensor:
        """Return unit-norm text features ``[rows, tokens, dim]`` of end-of-text tokens ``[rows, tokens, width]``."""
        projection = self.weights["text_projection"].expand(x.shape[0], -1, -1)
        return F.normalize((self._layer_norm("ln_final", x) @ projection).float(), dim=-1)


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
    keys = ["token_embedding.weight", "positional_embedding", "text_projection", "ln_final.weight", "ln_final.bias"]
    return keys + block_keys(layers)
