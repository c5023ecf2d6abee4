"""Types of configuration keys: paths, names and times; and plain numbers from those of numpy and torch."""

import os
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import AfterValidator, Field

from promptfleet.disks import unusable_path

LARGEST_FLOAT = 3.4028234663852886e38  # of float32, which prompts and gates are trained in
LARGEST_INT = 2**63 - 1
LONGEST_SHOWN = 60  # characters of a path that is refused


def expand_home(path: str) -> str:
    """Return ``path`` with a leading ``~`` or ``~user`` replaced, as a shell does.

    Raises ValueError: it is empty, or nothing can be called so, or it names a home folder that does not exist.
    """
    if not path.strip() or "\0" in path:
        raise ValueError(f"got {path!r}, should be a path")
    if reason := unusable_path(path):
        raise ValueError(f"got {_shortened(path)!r}, which {reason}")
    expanded = os.path.expanduser(path)
    if expanded == path and path.startswith("~") and (path == "~" or "/" in path):
        raise ValueError(f"got {path!r}, but there is no such home folder; write ./{path} for a folder of that name")
    return expanded


FilePath = Annotated[str, AfterValidator(expand_home)]  # of every key that is a path
Name = Annotated[str, Field(min_length=1)]  # of every other text, so that no path is forgotten
Seconds = Annotated[float, Field(gt=0, le=1e9)]


def is_text(annotation: Any) -> bool:
    """Return True if values of this type are text, or text or None."""
    return set(_branches(annotation)) - {NoneType} == {str}


def may_be_none(annotation: Any) -> bool:
    return NoneType in _branches(annotation)


def plain(value: Any) -> Any:
    """Return a number of numpy's or torch's as Python's own, a path object as text, and anything else as it is."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value


def check_size(value: Any) -> Any:
    """Return ``value``. Raises ValueError: a number that arithmetic cannot hold."""
    if isinstance(value, float) and abs(value) > LARGEST_FLOAT:
        raise ValueError(f"got {value:g}, should be at most {LARGEST_FLOAT:.2g}, the largest number of float32")
    if isinstance(value, int) and abs(value) > LARGEST_INT:
        raise ValueError(f"got a number of {len(f'{value:x}') * 4} bits, should be within -2**63 and 2**63")
    return value


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def _branches(annotation: Any) -> Iterator[Any]:
    """Yield the types of a union, without the metadata of ``Annotated``."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _branches(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for branch in get_args(annotation):
            yield from _branches(branch)
    else:
        yield annotation
