"""Images through CLIP's image tower, with gradients to their pixels and to tokens within the tower."""

from collections.abc import Mapping

import torch
from torch import Tensor

from promptfleet.clip.vision_tower import encode_pixels, encode_tokens
from promptfleet.methods.parts.precision import in_precision
from promptfleet.methods.protocol import World

_NOTHING: Mapping[int, Tensor] = {}


def encode_images(world: World, pixels: Tensor, inserted: Mapping[int, Tensor] = _NOTHING, pooled: int = 1) -> Tensor:
    """Return image features ``[images, dim]``, float32, unit norm, see ``EncodeImages``.

    A vision transformer runs in ``config.precision``, other image towers in float32.
    """
    tower = world.image_tower.vision
    if tower is None:
        return world.image_tower(pixels)
    return in_precision(
        world.config,
        tower,
        [pixels, *inserted.values()],
        lambda tower, given: encode_pixels(tower, given[0], dict(zip(inserted, given[1:], strict=True)), pooled=pooled),
    )


@torch.no_grad()
def class_tokens(world: World, pixels: Tensor, blocks: int | None = None) -> Tensor:
    """Return class tokens ``[images, width]`` after ``blocks`` (default: all) and the last norm."""
    return in_precision(
        world.config,
        world.image_tower.vision,
        [pixels],
        lambda tower, given: encode_tokens(tower, *given, blocks=blocks)[:, 0],
    )
