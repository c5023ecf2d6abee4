"""The 1,797 handwritten digits, 8 x 8 pixels, that scikit-learn ships. Needs neither files nor a network.

Source: E. Alpaydin, C. Kaynak, *Optical Recognition of Handwritten Digits*, UCI repository, its test half.
"""

import hashlib
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from promptfleet.data.dataset import Dataset

CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEMPLATES = ("a handwritten digit {}.",)


def load(root: Path) -> Dataset:
    """All digits as 8-bit grey images, 0 the paper and 255 the ink. ``root`` is not used."""
    from sklearn.datasets import load_digits  # here: scikit-learn takes a second to import

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int64)
    return Dataset(
        name="digits",
        class_names=CLASS_NAMES,
        labels=labels,
        read_image=partial(_read_image, pixels),
        templates=TEMPLATES,
        fingerprint=hashlib.sha256(pixels.tobytes() + labels.tobytes()).hexdigest(),
    )


def _read_image(pixels: np.ndarray, index: int) -> Image.Image:
    return Image.fromarray(pixels[index])
