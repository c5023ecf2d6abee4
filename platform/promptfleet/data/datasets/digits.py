"""The 1,797 handwritten digits, 8 x 8 pixels, that scikit-learn ships. Needs neither files nor a network.

Source: E. Alpaydin, C. Kaynak, *Optical Recognition of Handwritten Digits*, UCI repository, its test half.
"""

import hashlib
from functools import partial

import numpy as np
from PIL import Image

from promptfleet.data.dataset import Dataset

CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEMPLATES = ("a handwritten digit {}.",)


def load() -> Dataset:
    """All digits as 8-bit grey images, 0 the paper and 255 the ink."""
    pixels, labels = read_digits()
    return Dataset(
        name="digits",
        class_names=CLASS_NAMES,
        labels=labels,
        read_image=partial(read_pixels, pixels),
        templates=TEMPLATES,
        fingerprint=hashlib.sha256(pixels.tobytes() + labels.tobytes()).hexdigest(),
    )


def read_digits() -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 ``[samples, 8, 8]`` and labels int64 ``[samples]``."""
    from sklearn.datasets import load_digits  # here: scikit-learn takes a second to import

    digits = load_digits()
    return np.rint(digits.images * (255 / 16)).astype(np.uint8), digits.target.astype(np.int64)


def read_pixels(pixels: np.ndarray, index: int) -> Image.Image:
    """Sample ``index`` of grey pixels uint8 ``[samples, height, width]``."""
    return Image.fromarray(pixels[index])
