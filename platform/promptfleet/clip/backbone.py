"""Loading a frozen CLIP: glyph-clip, which this package ships, or any of open_clip's with a causal text tower."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from itertools import islice
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from promptfleet.clip.text_tower import LAYER_NORM_EPS, TextTower
from promptfleet.config import BackboneConfig
from promptfleet.errors import BackboneError, did_you_mean

GLYPH_CLIP = "glyph-clip"


@dataclass(frozen=True)
class Backbone:
    """A frozen CLIP. Its open_clip model is built only when images or whole texts have to be encoded.

    ``fingerprint`` is a hash of the weights and of the image preprocessing; ``logit_scale`` is CLIP's
    exp(logit_scale), about 100 in the published models.
    """

    name: str
    fingerprint: str
    tower: TextTower
    logit_scale: float
    open_model: Callable[[], nn.Module]

    @cached_property
    def model(self) -> nn.Module:
        return self.open_model().eval().requires_grad_(False)

    @cached_property
    def transform(self) -> Callable[[Image.Image], Tensor]:
        """The model's own preprocessing of an image of any size and mode: ``[3, height, width]``."""
        from open_clip.transform import PreprocessCfg, image_transform_v2

        return image_transform_v2(PreprocessCfg(**self.model.visual.preprocess_cfg), is_train=False)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Token ids ``[texts, positions]``: SOS, byte pairs, EOT, zeros."""
        from open_clip.tokenizer import SimpleTokenizer

        return SimpleTokenizer(context_length=self.tower.positions)(list(texts))

    def encode_images(self, images: Iterable[Image.Image], batch_size: int = 256) -> Iterator[Tensor]:
        """Unit-norm image features in batches ``[<= batch_size, dim]``, in the images' order."""
        images = iter(images)
        with torch.inference_mode():
            while batch := [self.transform(image) for image in islice(images, batch_size)]:
                yield self.model.encode_image(torch.stack(batch), normalize=True)


def load_backbone(settings: BackboneConfig) -> Backbone:
    """Load ``glyph-clip`` or one of open_clip's models with a tag's weights or those of a file, in float32.

    Raises BackboneError: a name that open_clip does not know, weights that cannot be had, a text tower that the
    prompt encoder does not support.
    """
    weights = settings.pretrained or settings.checkpoint
    if settings.name == GLYPH_CLIP:
        if weights:
            raise BackboneError(f"backbone.name={GLYPH_CLIP} brings its own weights: leave out {weights!r}")
        return _load_glyph_clip()
    if not weights:
        raise BackboneError(
            f"backbone.name={settings.name} needs weights: set backbone.pretrained (such as openai) or "
            "backbone.checkpoint (a file)"
        )
    if settings.pretrained and settings.checkpoint:
        raise BackboneError(
            f"backbone.pretrained={settings.pretrained} and backbone.checkpoint={settings.checkpoint}: leave one out"
        )
    model, name = _load_open_clip(settings.name, weights), settings.label
    fingerprint = _fingerprint(model.state_dict(), model.visual.preprocess_cfg)
    return Backbone(name, fingerprint, text_tower_of(model, name), _logit_scale(model.state_dict()), lambda: model)


def text_tower_of(model: nn.Module, name: str = "this model") -> TextTower:
    """Take the text tower out of an open_clip model. Raises BackboneError where it is not CLIP's standard one."""
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
    wanted = _tower_keys(len(blocks))
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


def _load_glyph_clip() -> Backbone:
    from safetensors.torch import load_file

    folder = files("promptfleet.clip") / "glyph_clip"
    settings = json.loads((folder / "glyph-clip.json").read_text())
    state = {key: tensor.float() for key, tensor in load_file(str(folder / "glyph-clip.safetensors")).items()}
    text = settings["text_cfg"]
    tower = TextTower(
        {key: state[key] for key in _tower_keys(text["layers"])},
        text["layers"],
        text["heads"],
        settings.get("quick_gelu", False),
    )

    def open_model() -> nn.Module:
        import open_clip

        architecture = {key: value for key, value in settings.items() if key != "preprocess_cfg"}
        model = open_clip.CLIP(**architecture)
        model.load_state_dict(state)
        open_clip.model.set_model_preprocess_cfg(model, settings["preprocess_cfg"])
        return model

    fingerprint = _fingerprint(state, settings["preprocess_cfg"])
    return Backbone(GLYPH_CLIP, fingerprint, tower, _logit_scale(state), open_model)


def _load_open_clip(model_name: str, pretrained: str) -> nn.Module:
    import open_clip

    if model_name not in open_clip.list_models():
        hint = did_you_mean(model_name, open_clip.list_models())
        raise BackboneError(f"open_clip has no model {model_name!r}" + (f"; {hint}" if hint else ""))
    try:
        return open_clip.create_model(model_name, pretrained=pretrained, precision="fp32", device="cpu")
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BackboneError(
            f"backbone {model_name}/{pretrained}: no weights ({reason}). Set backbone.pretrained to one of open_clip's "
            "tags for it, with network access, or backbone.checkpoint to a file of weights"
        ) from None


def _tower_keys(layers: int) -> list[str]:
    parts = ["ln_1", "ln_2", "attn.out_proj", "mlp.c_fc", "mlp.c_proj"]
    keys = ["token_embedding.weight", "positional_embedding", "text_projection", "ln_final.weight", "ln_final.bias"]
    for block in (f"transformer.resblocks.{layer}" for layer in range(layers)):
        keys += [f"{block}.attn.in_proj_weight", f"{block}.attn.in_proj_bias"]
        keys += [f"{block}.{part}.{kind}" for part in parts for kind in ("weight", "bias")]
    return keys


def _logit_scale(state: Mapping[str, Tensor]) -> float:
    return float(state["logit_scale"].float().exp())


def _fingerprint(state: Mapping[str, Tensor], preprocessing: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(preprocessing, sort_keys=True, default=list).encode())
    for key in sorted(state):
        digest.update(key.encode())
        digest.update(state[key].contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
