"""File formats of published splits of image datasets: CoOp's JSON, and lists of ``class/image`` lines."""

import json
import posixpath
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from promptfleet.data.dataset import Part
from promptfleet.data.image_files import ListedImage
from promptfleet.data.regular_files import open_regular
from promptfleet.errors import DataError

COOP_PARTS = {"train": Part.TRAIN, "val": Part.VAL, "test": Part.TEST}


def read_coop_split(path: Path) -> tuple[list[ListedImage], tuple[str, ...]]:
    """Return the images of a ``split_zhou_*.json`` and its class names, in the order of its labels.

    The file has ``[image, label, class name]`` under train, val and test. Labels with gaps are renumbered from 0.

    Raises:
        DataError: if the file is not of that form, or a label has two names.
    """
    try:
        split = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: malformed JSON ({error})") from None
    if not isinstance(split, dict) or not all(isinstance(split.get(key), list) for key in COOP_PARTS):
        raise DataError(f"{path}: no split of CoOp's; should be an object with lists under train, val and test")
    rows = [(key, number, row) for key in COOP_PARTS for number, row in enumerate(split[key])]
    names: dict[int, str] = {}
    for key, number, row in rows:
        if not _is_coop_row(row):
            raise DataError(f"{path}: {key}[{number}] is {row!r}, should be [image, label >= 0, class name]")
        _, label, name = row
        if names.setdefault(label, name) != name:
            raise DataError(f"{path}: {key}[{number}] calls label {label} {name!r}, before it was {names[label]!r}")
    order = {label: index for index, label in enumerate(sorted(names))}
    images = [ListedImage(image, order[label], path, COOP_PARTS[key]) for key, _, (image, label, _) in rows]
    return images, tuple(names[label] for label in order)


def read_class_lists(lists: Mapping[Part, Path], suffix: str = "") -> tuple[list[ListedImage], tuple[str, ...]]:
    """Return the images of text files with a line ``class/image`` each; classes are in alphabetical order.

    Raises:
        DataError: if a file is missing, or a line is not of that form.
    """
    rows = []
    for part, path in lists.items():
        for number, line in read_lines(path):
            name, slash, image = posixpath.normpath(line).partition("/")  # also of ./class/image
            if not (name and slash and image):
                raise DataError(f"{path}:{number}: {line!r} should be class/image")
            rows.append((name, f"{line}{suffix}", path, part))
    names = sorted({name for name, *_ in rows})
    order = {name: label for label, name in enumerate(names)}
    return [ListedImage(image, order[name], path, part) for name, image, path, part in rows], tuple(names)


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Return the lines of a text file that are neither empty nor a ``#`` comment, with their numbers from 1."""
    lines = enumerate(map(str.strip, read_text(path).splitlines()), start=1)
    return [(number, line) for number, line in lines if line and not line.startswith("#")]


def read_text(path: Path) -> str:
    """Return the file as UTF-8 text. Raises DataError if it is missing or something else."""
    try:
        with open_regular(path) as file:
            return file.read().decode("utf-8")
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such split file") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


def _is_coop_row(row: Any) -> bool:
    return (
        isinstance(row, list)
        and [type(value) for value in row] == [str, int, str]
        and row[1] >= 0
        and bool(row[0])
        and bool(row[2])
    )
