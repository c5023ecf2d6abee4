"""A dataset whose images are files: what a list says about each, checked against what is on disk."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from promptfleet.data.dataset import Dataset, Part
from promptfleet.errors import DataError

HASHED_BYTES = 4096  # of each image's beginning and end
READERS = 16  # threads; they wait for the disk, not for each other
CHUNK = 256  # images that a thread takes at a time


class ListedImage(NamedTuple):
    """``path`` counts from the folder of images, with slashes; ``listed_in`` is the file or folder that names it."""

    path: str
    label: int
    listed_in: Path
    part: Part | None = None
    domain: int = 0


def image_dataset(
    name: str,
    folder: Path,
    images: Sequence[ListedImage],
    class_names: Sequence[str],
    templates: tuple[str, ...],
    domain_names: tuple[str, ...] = (),
) -> Dataset:
    """The dataset of ``images``, in their order; underscores in class names become spaces, as CoOp has it.

    Every file is opened once: its size, first and last 4 KiB go into the fingerprint, beside its path, label, part and
    domain. That finds a missing or replaced image at start for some 30 us each, without reading gigabytes; only an
    image of the same size that differs in nothing but its middle would pass for the old one.

    Raises:
        DataError: if there is no image, or one leaves the folder, stands twice or does not exist.
    """
    if not images:
        raise DataError(f"{folder}: {name} has no images: the split lists none")
    _check_paths(images)
    folder = folder.absolute()  # whoever reads an image may do so from elsewhere
    paths = tuple(f"{folder}/{image.path}" for image in images)
    domains = np.array([image.domain for image in images], dtype=np.int64) if domain_names else None
    parts = [image.part for image in images]
    return Dataset(
        name=name,
        class_names=tuple(map(spaced, class_names)),
        labels=np.array([image.label for image in images], dtype=np.int64),
        read_image=partial(read_image_file, paths),
        templates=templates,
        fingerprint=_fingerprint(paths, images),
        domains=domains,
        domain_names=domain_names,
        official=None if None in parts else np.array(parts, dtype=np.int64),
    )


def spaced(class_name: str) -> str:
    return class_name.replace("_", " ")


def read_image_file(paths: Sequence[str], index: int) -> Image.Image:
    """Decode one file, whatever its name says it is: grey images as ``L``, all others as ``RGB``.

    Raises:
        DataError: if it cannot be decoded, or has more than 8 bits per channel.
    """
    path = paths[index]
    try:
        with Image.open(path) as image:
            wide = image.mode.startswith(("I", "F"))
            decoded = image.convert("L" if image.mode == "L" else "RGB")
    except Exception as error:  # a damaged file can fail in any part of any decoder
        reason = str(error).replace(repr(path), "it") or type(error).__name__
        raise DataError(
            f"{path}: cannot be decoded as an image ({reason}); replace it or take it off the split"
        ) from None
    if wide:
        raise DataError(f"{path}: has more than 8 bits per channel; convert it to 8-bit grey or RGB")
    return decoded


def _check_paths(images: Sequence[ListedImage]) -> None:
    seen = set()
    for image in images:
        if not image.path or min(image.path) < " ":  # such as a line break
            raise DataError(f"{image.listed_in}: {image.path!r} is no file name")
        if image.path.startswith("/") or ".." in image.path.split("/"):
            raise DataError(f"{image.listed_in}: {image.path!r} is outside the dataset's folder")
        if image.path in seen:
            raise DataError(f"{image.listed_in}: {image.path!r} is listed twice, here or in another part of the split")
        seen.add(image.path)


def _fingerprint(paths: Sequence[str], images: Sequence[ListedImage]) -> str:
    """sha256 over what the lists say about each image and over the ends of its file."""
    chunks = [paths[first : first + CHUNK] for first in range(0, len(paths), CHUNK)]
    with ThreadPoolExecutor(READERS) as pool:
        contents = [content for chunk in pool.map(_ends_of_files, chunks) for content in chunk]
    missing = [row for row, content in enumerate(contents) if content is None]
    if missing:
        first = missing[0]
        raise DataError(
            f"{paths[first]}: there is no such image, but {images[first].listed_in} lists it "
            f"({len(missing)} of {len(paths)} listed images are missing)"
        )
    digest = hashlib.sha256()
    for image, content in zip(images, contents, strict=True):
        digest.update(f"{image.path}\0{image.label}\0{image.part}\0{image.domain}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _ends_of_files(paths: Sequence[str]) -> list[bytes | None]:
    return [_ends_of_file(path) for path in paths]


def _ends_of_file(path: str) -> bytes | None:
    """A hash of the file's size, beginning and end; None if there is no such file. Raises DataError if unreadable."""
    try:
        file = os.open(path, os.O_RDONLY)
        try:
            size = os.fstat(file).st_size
            beginning = os.read(file, HASHED_BYTES)
            end = os.pread(file, HASHED_BYTES, max(HASHED_BYTES, size - HASHED_BYTES))
        finally:
            os.close(file)
    except (FileNotFoundError, NotADirectoryError, UnicodeEncodeError):
        return None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    return hashlib.sha256(b"%d\0%b%b" % (size, beginning, end)).digest()
