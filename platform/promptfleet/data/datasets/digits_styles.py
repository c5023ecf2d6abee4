"""The digits of ``digits`` in five styles as domains: feature shift without any file.

Each of the 1,797 images is drawn once, in one style, so none is in two domains; each style gets a fifth of each class.
"""

import hashlib
from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from promptfleet.data.dataset import Dataset
from promptfleet.data.datasets.digits import CLASS_NAMES, TEMPLATES, read_digits, read_pixels
from promptfleet.seeding import stream

SEED = 0  # seed of styles, angles and noise: a part of the dataset, not of a federation
SIDE = 32


def load() -> Dataset:
    """Load grey images of 32 x 32 pixels."""
    small, labels = read_digits()
    domains = _assign_styles(labels)
    draw = tuple(STYLES.values())
    pixels = np.stack(
        [
            np.asarray(draw[domain](_enlarged(image), stream(SEED, "digits_styles", client=index)))
            for index, (image, domain) in enumerate(zip(small, domains, strict=True))
        ]
    )
    return Dataset(
        name="digits_styles",
        class_names=CLASS_NAMES,
        labels=labels,
        read_image=partial(read_pixels, pixels),
        templates=TEMPLATES,
        fingerprint=hashlib.sha256(pixels.tobytes() + labels.tobytes() + domains.tobytes()).hexdigest(),
        domains=domains,
        domain_names=tuple(STYLES),
    )


def _assign_styles(labels: np.ndarray) -> np.ndarray:
    """Return a style for each sample, int64 ``[samples]``; class by class in turn, so sizes differ by one at most."""
    order = stream(SEED, "digits_styles").permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    styles = np.empty(len(labels), dtype=np.int64)
    styles[by_class] = np.arange(len(labels)) % len(STYLES)
    return styles


def _enlarged(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def _inverted(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageOps.invert(image)


def _thick(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.MaxFilter(5))


def _rotated(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Rotate by 20 to 40 degrees to either side."""
    angle = rng.choice([-1, 1]) * rng.uniform(20, 40)
    turned = image.rotate(angle, Image.Resampling.BICUBIC, expand=True)  # the strokes touch the borders
    return turned.resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def _noisy(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Add Gaussian noise of a standard deviation of 60 grey levels."""
    noise = rng.normal(0, 60, size=(SIDE, SIDE))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def _blurred(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(3))


STYLES: dict[str, Callable[[Image.Image, np.random.Generator], Image.Image]] = {
    "inverted": _inverted,
    "thick": _thick,
    "rotated": _rotated,
    "noisy": _noisy,
    "blurred": _blurred,
}
