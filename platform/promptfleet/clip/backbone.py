"""Loader of a frozen CLIP: glyph-clip, which this package ships, or a model of open_clip with a causal text tower."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor, nn

from promptfleet.clip.image_tower import ImageTower, image_transform
from promptfleet.clip.text_tower import TextTower, text_tower_of, tower_keys
from promptfleet.config import BackboneConfig
from promptfleet.errors import BackboneError

if TYPE_CHECKING:
    from open_clip.tokenizer import SimpleTokenizer

GLYPH_CLIP = "glyph-clip"


@dataclass(frozen=True)
class Backbone:
    """A frozen CLIP in float32. Its open_clip model is built only when images or whole texts have to be encoded.

    ``fingerprint`` is a hash of the weights, the architecture and the image preprocessing; ``logit_scale`` is CLIP's
    exp(logit_scale), about 100 in the published models; ``architecture`` is as in open_clip's model files.
    """

    name: str
    fingerprint: str
    tower: TextTower
    logit_scale: float
    architecture: Mapping[str, Any]
    open_model: Callable[[], nn.Module]

    @cached_property
    def model(self) -> nn.Module:
        return self.open_model().eval().requires_grad_(False)

    @cached_property
    def transform(self) -> Callable[[Image.Image], Tensor]:
        """Return the model's own preprocessing of an image of any size and mode: ``[3, height, width]``."""
        return image_transform(self.model.visual.preprocess_cfg)

    @cached_property
    def image_tower(self) -> ImageTower:
        """Return the image tower by itself; gradients flow through it to the pixels."""
        return ImageTower.of_model(self.model, self.architecture)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Return token ids ``[texts, positions]``: SOS, byte pairs, EOT, zeros; texts that are too long are cut."""
        return self._tokenizer(list(texts))

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a text, with SOS and EOT and without cuts."""
        return len(self._tokenizer.encode(text)) + 2

    def word(self, token: int) -> str:
        """Return the text of a token of the vocabulary."""
        return self._tokenizer.decode([token]).strip()

    def known_words(self) -> Tensor:
        """Return the tokens ``[words]`` that have an embedding, without the marks of a text's start and end.

        glyph-clip has seen some words alone; the embeddings of others are zeros.
        """
        known = self.tower.weights["token_embedding.weight"].any(dim=1)
        known[[self._tokenizer.sot_token_id, self._tokenizer.eot_token_id]] = False
        return known.nonzero()[:, 0]

    @cached_property
    def _tokenizer(self) -> "SimpleTokenizer":
        from open_clip.tokenizer import SimpleTokenizer

        return SimpleTokenizer(context_length=self.tower.positions)


def load_backbone(settings: BackboneConfig, seed: int = 0) -> Backbone:
    """Load ``glyph-clip``, or one of open_clip's models with the weights of a tag, of its hub or of a file.

    seed decides the weights of ``pretrained: random``, and nothing else.

    Raises:
        BackboneError: keys that do not fit together, a name or tag that open_clip does not know, a text tower that
            the prompt encoder does not support, weights that cannot be had or do not fit.
    """
    if settings.name == GLYPH_CLIP:
        for key in ("pretrained", "checkpoint"):
            if weights := getattr(settings, key):
                raise BackboneError(
                    f"backbone.name={GLYPH_CLIP} has its own weights: leave out backbone.{key}={weights}, or set "
                    "backbone.name to the architecture of those, such as ViT-B-16"
                )
        return _load_glyph_clip()
    from promptfleet.clip.open_clip_models import open_model

    model, architecture = open_model(settings, seed)
    state = model.state_dict()
    return Backbone(
        name=settings.label,
        fingerprint=_fingerprint(state, architecture, model.visual.preprocess_cfg),
        tower=text_tower_of(model, settings.label),
        logit_scale=_logit_scale(state),
        architecture=architecture,
        open_model=lambda: model,
    )


def _load_glyph_clip() -> Backbone:
    from safetensors.torch import load_file

    folder = files("promptfleet.clip") / "glyph_clip"
    settings = json.loads((folder / "glyph-clip.json").read_text())
    architecture = {key: value for key, value in settings.items() if key != "preprocess_cfg"}
    state = {key: tensor.float() for key, tensor in load_file(str(folder / "glyph-clip.safetensors")).items()}
    text = settings["text_cfg"]
    tower = TextTower(
        {key: state[key] for key in tower_keys(text["layers"])},
        text["layers"],
        text["heads"],
        settings.get("quick_gelu", False),
    )

    def open_model() -> nn.Module:
        import open_clip

        model = open_clip.CLIP(**architecture)
        model.load_state_dict(state)
        open_clip.model.set_model_preprocess_cfg(model, settings["preprocess_cfg"])
        return model

    fingerprint = _fingerprint(state, architecture, settings["preprocess_cfg"])
    return Backbone(GLYPH_CLIP, fingerprint, tower, _logit_scale(state), architecture, open_model)


def _logit_scale(state: Mapping[str, Tensor]) -> float:
    return float(state["logit_scale"].float().exp())


def _fingerprint(state: Mapping[str, Tensor], architecture: Mapping[str, Any], preprocessing: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps([architecture, preprocessing], sort_keys=True, default=list).encode())
    for key in sorted(state):
        digest.update(key.encode())
        digest.update(state[key].contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
