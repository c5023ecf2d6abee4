"""The 1,797 handwritten digits, 8 x 8 pixels, that scikit-learn ships. Needs neither files nor a network.

Source: E. Alpaydin, C. Kaynak, *Optical Recognition of Handwritten Digits*, UCI repository, its test half.
"""

import hashlib
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from promptfleet.data.dataset import Dataset

CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEMPLATES = ("a handwritten digit {}.",)


def load() -> Dataset:
    """Load all digits as 8-bit grey images, 0 the paper and 255 the ink."""
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
    """Return pixels uint8 ``[samples, 8, 8]`` and labels int64 ``[samples]``."""
    folder = Path(find_spec("sklearn").submodule_search_locations[0])  # not imported, which takes a second
    rows = np.loadtxt(folder / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    pixels, labels = rows[:, :-1].reshape(-1, 8, 8), rows[:, -1]
    return np.rint(pixels * (255 / 16)).astype(np.uint8), labels.astype(np.int64)


def read_pixels(pixels: np.ndarray, index: int) -> Image.Image:
    """Return sample ``index`` of grey pixels uint8 ``[samples, height, width]``."""
    return Image.fromarray(pixels[index])
