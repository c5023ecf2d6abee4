"""CIFAR-10 and CIFAR-100 in their Python version: pickles of 32 x 32 pixels, 100 classes by their fine labels.

Only the form of the files is checked, not their checksums, so that a part of the images works as the whole does.
Source: A. Krizhevsky, *Learning Multiple Layers of Features from Tiny Images*, 2009.
"""

import hashlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from promptfleet.data.closed_pickle import load_pickle
from promptfleet.data.dataset import Dataset, Part
from promptfleet.data.image_files import spaced
from promptfleet.errors import DataError

TEMPLATES = ("a photo of a {}.",)
CHANNELS, SIDE = 3, 32


def load_cifar10(folder: Path) -> Dataset:
    batches = folder / "cifar-10-batches-py"
    files = {batches / f"data_batch_{number}": Part.TRAIN for number in range(1, 6)}
    return _load(
        "cifar10", {**files, batches / "test_batch": Part.TEST}, "labels", batches / "batches.meta", "label_names"
    )


def load_cifar100(folder: Path) -> Dataset:
    batches = folder / "cifar-100-python"
    files = {batches / "train": Part.TRAIN, batches / "test": Part.TEST}
    return _load("cifar100", files, "fine_labels", batches / "meta", "fine_label_names")


def _load(name: str, files: Mapping[Path, Part], labels_key: str, meta: Path, names_key: str) -> Dataset:
    class_names = _class_names(meta, names_key)
    parts = [_batch(file, labels_key, len(class_names), meta) for file in files]
    pixels = np.concatenate([pixels for pixels, _ in parts])
    labels = np.concatenate([labels for _, labels in parts])
    official = np.repeat(list(files.values()), [len(labels) for _, labels in parts]).astype(np.int64)
    digest = hashlib.sha256(name.encode())
    for array in (pixels, labels, official):
        digest.update(np.ascontiguousarray(array).data)
    return Dataset(
        name=name,
        class_names=class_names,
        labels=labels,
        read_image=partial(_read_image, pixels),
        templates=TEMPLATES,
        fingerprint=digest.hexdigest(),
        official=official,
    )


def _class_names(meta: Path, key: str) -> tuple[str, ...]:
    names = _entry(meta, _dict(meta), key)
    names = [name.decode("latin1") if isinstance(name, bytes) else name for name in names]
    names = [name for name in names if not isinstance(name, str) or name]
    if not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"{meta}: {key} should be a list of class names")
    return tuple(map(spaced, names))


def _batch(file: Path, labels_key: str, classes: int, meta: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels uint8 ``[n, 3072]`` and labels int64 ``[n]`` of one file."""
    batch = _dict(file)
    pixels = _entry(file, batch, "data")
    if not isinstance(pixels, np.ndarray):
        raise DataError(f"{file}: data is a {type(pixels).__name__}, should be an array of uint8 [images, 3072]")
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != CHANNELS * SIDE * SIDE:
        raise DataError(f"{file}: data is {pixels.dtype} {pixels.shape}, should be uint8 [images, 3072]")
    labels = list(_entry(file, batch, labels_key))
    if len(labels) != len(pixels):
        raise DataError(f"{file}: {len(pixels)} images but {len(labels)} {labels_key}")
    for index, label in enumerate(labels):
        if type(label) is bool or not isinstance(label, (int, np.integer)) or not 0 <= label < classes:
            raise DataError(f"{file}: {labels_key}[{index}] is {label!r}, but {meta.name} names {classes} classes")
    return np.asarray(pixels), np.array(labels, dtype=np.int64)


def _dict(file: Path) -> dict[str, Any]:
    """Return the file's dict; files that were rewritten by Python 3 may have keys of bytes."""
    content = load_pickle(file)
    if not isinstance(content, dict):
        raise DataError(f"{file}: a {type(content).__name__}, should be CIFAR's dict")
    return {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in content.items()}


def _entry(file: Path, content: Mapping[str, Any], key: str) -> Any:
    value = content.get(key)
    if not isinstance(value, (list, tuple, np.ndarray)) or (isinstance(value, np.ndarray) and not value.ndim):
        raise DataError(f"{file}: has no list or array {key!r}; there are: {', '.join(map(str, content))}")
    return value


def _read_image(pixels: np.ndarray, index: int) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels[index].reshape(CHANNELS, SIDE, SIDE).transpose(1, 2, 0)))
