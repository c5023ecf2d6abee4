"""A dataset of image files: a list describes each image and is checked against the disk."""

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from promptfleet.data.dataset import Dataset, Part
from promptfleet.data.regular_files import open_regular, regular_descriptor
from promptfleet.errors import DataError
from promptfleet.escaping import encodable

logger = logging.getLogger(__name__)

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF", "JPEG2000", "PPM", "TGA", "QOI")  # no programs
MOST_PIXELS = 2**26  # some 600 MB while one is decoded
HASHED_BYTES = 4096  # of each image's beginning and end
READERS = 16  # threads; they wait for the disk, not for one another
CHUNK = 256  # images that a thread takes at a time


class ListedImage(NamedTuple):
    """``path`` counts from the folder of images, with slashes; ``listed_in`` is the file or folder that names it."""

    path: str
    label: int
    listed_in: Path
    part: Part | None = None
    domain: int = 0


class _File(NamedTuple):
    """Hash of a file's size, beginning and end, and the place of its content: the same for all names of one file."""

    digest: bytes
    device: int
    inode: int


def image_dataset(
    name: str,
    folder: Path,
    images: Sequence[ListedImage],
    class_names: Sequence[str],
    templates: tuple[str, ...],
    domain_names: tuple[str, ...] = (),
    *,
    listed: bool = True,
) -> Dataset:
    """Return the dataset of ``images``, in their order; underscores in class names become spaces, as in CoOp.

    Every file is opened once: its size, first and last 4 KiB go into the fingerprint, with its path, label, part and
    domain. That finds a missing or replaced image at start for some 30 us each, without reading gigabytes; only an
    image of the same size that differs in nothing but its middle would pass for the old one.

    No image is in the dataset twice, under any names. If a file lists the images, a second name is an error. Without
    ``listed`` the images were found in ``folder``, and a second name of the same class, part and domain is left out and
    counted.

    Raises:
        DataError: if there is no image, or one leaves the folder, is a duplicate, does not exist or is no regular file.
    """
    if not images:
        raise DataError(f"{folder}: {name} has no images: the split lists none")
    if listed:
        _check_paths(images)
    folder = folder.absolute()  # the reader of an image may have another working folder
    files = _read_files(folder, images)
    rows = _distinct_rows(folder, images, files, listed=listed)
    images, files = [images[row] for row in rows], [files[row] for row in rows]
    domains = np.array([image.domain for image in images], dtype=np.int64) if domain_names else None
    parts = [image.part for image in images]
    return Dataset(
        name=name,
        class_names=_class_names(class_names),
        labels=np.array([image.label for image in images], dtype=np.int64),
        read_image=partial(read_image_file, tuple(f"{folder}/{image.path}" for image in images)),
        templates=templates,
        fingerprint=_fingerprint(images, files),
        domains=domains,
        domain_names=tuple(map(encodable, domain_names)),
        official=None if None in parts else np.array(parts, dtype=np.int64),
    )


def spaced(class_name: str) -> str:
    return class_name.replace("_", " ")


def _class_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return names with spaces; names that would become equal, such as ``a_b`` and ``a b``, stay as they are."""
    names = [encodable(name) for name in names]
    counts = Counter(map(spaced, names))
    return tuple(spaced(name) if counts[spaced(name)] == 1 else name for name in names)


def read_image_file(paths: Sequence[str], index: int) -> Image.Image:
    """Decode one file, independent of its name: grey images as ``L``, all others as ``RGB``.

    Raises:
        DataError: if it cannot be decoded, has more than ``MOST_PIXELS`` or more than 8 bits per channel.
    """
    path = paths[index]
    try:
        with open_regular(path) as file, Image.open(file, formats=FORMATS) as image:
            wide = image.mode.startswith(("I", "F"))
            if image.width * image.height > MOST_PIXELS:
                raise DataError(f"{path}: has {image.width} x {image.height} pixels, more than {MOST_PIXELS}")
            decoded = image.convert("L" if image.mode == "L" else "RGB")
    except DataError:
        raise
    except Exception as error:  # a damaged file can fail in any part of any decoder
        reason = str(error) or type(error).__name__
        for name in (f"<_io.BufferedReader name={path!r}>", repr(path)):
            reason = reason.replace(name, "it")
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


def _read_files(folder: Path, images: Sequence[ListedImage]) -> list[_File]:
    """Open every image's file. Raises DataError if one is missing, cannot be read or is no regular file."""
    paths = [f"{folder}/{image.path}" for image in images]
    chunks = [paths[first : first + CHUNK] for first in range(0, len(paths), CHUNK)]
    with ThreadPoolExecutor(READERS) as pool:
        files = [file for chunk in pool.map(_files, chunks) for file in chunk]
    missing = [row for row, file in enumerate(files) if file is None]
    if missing:
        first = missing[0]
        raise DataError(
            f"{paths[first]}: there is no such image, but {images[first].listed_in} lists it "
            f"({len(missing)} of {len(paths)} listed images are missing)"
        )
    return files


def _distinct_rows(
    folder: Path, images: Sequence[ListedImage], files: Sequence[_File], *, listed: bool
) -> Sequence[int]:
    """Return the rows of ``images`` without second names of one file. Raises DataError if second names are errors."""
    first_rows: dict[_File, int] = {}
    second_rows = {}
    for row, file in enumerate(files):
        first = first_rows.setdefault(file, row) if file.inode else row
        if first != row:
            second_rows[row] = first
    for row, first in second_rows.items():
        image, other = images[row], images[first]
        if listed:
            raise DataError(
                f"{image.listed_in}: {image.path!r} is listed twice: it is the same file as {other.path!r}, here or in "
                f"another part of the split"
            )
        if image[1:] != other[1:]:
            raise DataError(
                f"{folder}: {other.path} and {image.path} are one and the same file, in two classes, parts or domains; "
                f"remove one of them"
            )
    if second_rows:
        example = images[next(iter(second_rows))].path
        logger.warning("%s: left out %d second names of images (such as %s)", folder, len(second_rows), example)
    return [row for row in range(len(images)) if row not in second_rows]


def _fingerprint(images: Sequence[ListedImage], files: Sequence[_File]) -> str:
    """Return a sha256 over the list's entry for each image and over the ends of its file."""
    digest = hashlib.sha256()
    for image, file in zip(images, files, strict=True):
        listed = f"{image.path}\0{image.label}\0{image.part}\0{image.domain}\0"
        digest.update(listed.encode("utf-8", "surrogateescape"))
        digest.update(file.digest)
    return digest.hexdigest()


def _files(paths: Sequence[str]) -> list[_File | None]:
    return [_file(path) for path in paths]


def _file(path: str) -> _File | None:
    """Read the ends of a file; None if there is no such file. Raises DataError if it cannot be read."""
    try:
        descriptor, status = regular_descriptor(path)
        try:
            beginning = os.read(descriptor, HASHED_BYTES)
            end = os.pread(descriptor, HASHED_BYTES, max(HASHED_BYTES, status.st_size - HASHED_BYTES))
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError, UnicodeEncodeError):
        return None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    digest = hashlib.sha256(b"%d\0%b%b" % (status.st_size, beginning, end)).digest()
    return _File(digest, status.st_dev, status.st_ino)
