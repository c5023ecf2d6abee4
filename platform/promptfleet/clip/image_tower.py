"""CLIP's image tower as plain frozen tensors, for methods that need gradients with respect to pixels."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from promptfleet.clip.vision_tower import VisionTower, encode_pixels, vision_tower_of
from promptfleet.errors import BackboneError

if TYPE_CHECKING:
    from PIL import Image

_RESNET_VALUES = 600  # that RN50 keeps per pixel; others have no figure of their own
_NO_TEXT = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}


def image_transform(preprocessing: Mapping[str, Any]) -> "Callable[[Image.Image], Tensor]":
    """Return open_clip's preprocessing of an image of any size and mode: ``[3, height, width]``."""
    from open_clip.transform import PreprocessCfg, image_transform_v2

    return image_transform_v2(PreprocessCfg(**preprocessing), is_train=False)


@dataclass(frozen=True)
class ImageTower:
    """Image tower as a function: ``tower(pixels)`` gives unit-norm features ``[images, dim]``.

    ``pixels`` are ``[images, 3, height, width]``. ``weights`` holds the tower's parameters and buffers by open_clip's
    names; nothing in it is trained. ``architecture`` and ``preprocessing`` are plain values as in open_clip's model
    files. CLIP's vision transformer runs as a ``VisionTower``, any other as open_clip's module.
    """

    weights: Mapping[str, Tensor]
    architecture: Mapping[str, Any]
    preprocessing: Mapping[str, Any]

    @classmethod
    def of_model(cls, model: nn.Module, architecture: Mapping[str, Any]) -> "ImageTower":
        """Return the image tower of an open_clip model; the weights are shared with it."""
        tower = model.visual
        tensors = {**dict(tower.named_parameters()), **dict(tower.named_buffers())}
        return cls({name: tensor.detach() for name, tensor in tensors.items()}, architecture, tower.preprocess_cfg)

    def __call__(self, pixels: Tensor) -> Tensor:
        if self.vision is not None:
            return encode_pixels(self.vision, pixels)
        features = torch.func.functional_call(self._tower, dict(self.weights), (pixels,), strict=True)
        return F.normalize(features, dim=-1)

    @cached_property
    def vision(self) -> VisionTower | None:
        """Return the vision transformer that tokens can be inserted into; None for any other image tower."""
        try:
            return vision_tower_of(self.weights, self.architecture)
        except BackboneError:
            return None

    @property
    def activation_bytes(self) -> int:
        """Bytes, about, that an image's float32 forward pass keeps for its gradients."""
        if self.vision is not None:
            return self.vision.activation_bytes
        height, width = self.image_size
        return 4 * _RESNET_VALUES * height * width

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the pixels."""
        size = self.preprocessing["size"]
        return (size, size) if isinstance(size, int) else tuple(size)

    @cached_property
    def transform(self) -> "Callable[[Image.Image], Tensor]":
        """Return the preprocessing that the weights were trained with, see ``image_transform``."""
        return image_transform(self.preprocessing)

    def to(self, device: torch.device | str) -> "ImageTower":
        weights = {name: tensor.to(device) for name, tensor in self.weights.items()}
        return ImageTower(weights, self.architecture, self.preprocessing)

    @cached_property
    def _tower(self) -> nn.Module:
        """Return the tower's modules without memory for weights, which are passed with each call."""
        import open_clip

        vision = dict(self.architecture["vision_cfg"])
        if "timm_model_name" in vision:
            vision["timm_model_pretrained"] = False
        quick_gelu = self.architecture.get("quick_gelu", False)
        with torch.random.fork_rng(devices=[]):
            model = open_clip.CLIP(self.architecture["embed_dim"], vision, _NO_TEXT, quick_gelu=quick_gelu)
        return model.visual.eval().to("meta")
