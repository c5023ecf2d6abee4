"""Safetensors files: written in one step, and read so that a failing disk is not taken for a damaged file."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from promptfleet.atomic_files import replacing
from promptfleet.strict_json import parse_json

_CHUNK = 2**24
_NUMBER = re.compile(r"\(os error (\d+)\)")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Replace the file at ``path``. Raises OSError: the disk refuses; what was there before stays."""
    with replacing(path) as partial:
        try:
            save_file(dict(tensors), partial, metadata and dict(metadata))
        except SafetensorError as error:
            number = _NUMBER.search(str(error))
            if number is None:
                raise OSError(f"{path}: {error}") from None
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the metadata and all tensors of a file.

    Raises:
        OSError: the disk does not give it.
        ValueError: it is damaged.
    """
    require_readable(path)
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no dict
    except SafetensorError as error:
        raise ValueError(str(error)) from None


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a file, without reading its tensors. Raises as ``read_tensors``."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > os.fstat(file.fileno()).st_size:
            raise ValueError("its header is cut off")
        metadata = parse_json(dict[str, Any], file.read(length)).get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError("its metadata is no text")
    return metadata


def require_readable(path: Path) -> None:
    """Read the file to its end, so that any later error is one of its content. Raises OSError.

    safetensors maps files: where a disk fails it says that there is no such file, or the process dies of SIGBUS.
    """
    with open(path, "rb", buffering=0) as file:
        while file.read(_CHUNK):
            pass
