"""What lies in a folder of images, in an order that does not depend on the disk."""

import os
from pathlib import Path

from promptfleet.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in ``folder``, sorted, without hidden ones. Raises DataError if it is no folder."""
    try:
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: should be a folder with a folder of images per class ({error.strerror})") from None


def images_in(folder: Path) -> list[str]:
    """Paths of all image files below ``folder``, from there on and with slashes, sorted; hidden ones are left out."""
    found = []
    for parent, _, files in os.walk(folder, followlinks=True):
        below = Path(parent).relative_to(folder)
        found += [(below / file).as_posix() for file in files if file.lower().endswith(SUFFIXES) and file[0] != "."]
    return sorted(found)
