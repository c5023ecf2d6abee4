"""Augmented views of an image: random resized crops, half of them mirrored."""

import math

import numpy as np
from PIL import Image

from promptfleet.seeding import stream

AREA = (0.08, 1.0)  # of the image
RATIO = (3 / 4, 4 / 3)  # width to height
ATTEMPTS = 10


def random_views(image: Image.Image, sample: int, views: int, size: int) -> list[Image.Image]:
    """Return ``views`` square images of ``size`` pixels, the same for a sample's number in every run.

    Source: the augmentation that CoOp (arXiv:2109.01134) trains with, torchvision's RandomResizedCrop and flip.
    """
    rng = stream(0, "views", sample=sample)
    image = image.convert("RGB")
    return [_view(image, size, rng) for _ in range(views)]


def _view(image: Image.Image, size: int, rng: np.random.Generator) -> Image.Image:
    left, top, width, height = _crop(*image.size, rng)
    box = (left, top, left + width, top + height)
    view = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else view


def _crop(image_width: int, image_height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Return left, top, width and height of a crop.

    After ten crops that do not fit it is the largest central one of an allowed ratio.
    """
    for _ in range(ATTEMPTS):
        area = image_width * image_height * rng.uniform(*AREA)
        ratio = math.exp(rng.uniform(*np.log(RATIO)))
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= image_width and 0 < height <= image_height:
            left, top = rng.integers(image_width - width + 1), rng.integers(image_height - height + 1)
            return int(left), int(top), width, height
    width = min(image_width, round(image_height * RATIO[1]))
    height = min(image_height, round(image_width / RATIO[0]))
    return (image_width - width) // 2, (image_height - height) // 2, width, height
