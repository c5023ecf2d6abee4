"""Files of checkpoints in a federation's folder: their names, and removing them.

A round has one file, and those of the private states that it names. Its own file is written last and removed first.
"""

import re
from pathlib import Path

from promptfleet.disks import disk_errors
from promptfleet.errors import DataError

FOLDER = "checkpoints"
_NAME = re.compile(r"round-(\d{6})\.safetensors")
_PRIVATE_NAME = re.compile(r"privates-\d{6}-[0-9a-f]{16}\.safetensors")


class DamagedCheckpoint(DataError):
    """A checkpoint whose content was changed after it was written."""


def checkpoint_path(folder: str | Path, round_index: int) -> Path:
    """Return the path of the checkpoint of a round."""
    return Path(folder) / FOLDER / f"round-{round_index:06d}.safetensors"


def round_of(path: Path) -> int:
    """Return the round of a checkpoint by its name."""
    return int(_NAME.fullmatch(path.name)[1])


def private_name(round_index: int, sha256: str) -> str:
    """Return the name of a file of private states that changed in this round; ``sha256`` is that of its content."""
    return f"privates-{round_index:06d}-{sha256[:16]}.safetensors"


def is_private_name(name: str) -> bool:
    """Return True if a file of private states may have this name."""
    return _PRIVATE_NAME.fullmatch(name) is not None


def newest_round(folder: str | Path) -> int | None:
    """Return the round of the newest checkpoint in ``folder`` by its name; None without any. Raises StorageError."""
    return max((round_of(path) for path in checkpoint_paths(folder)), default=None)


def clear_checkpoints(folder: str | Path) -> None:
    """Remove all checkpoints in ``folder``. Raises StorageError, and OSError if one cannot be removed."""
    for path in [*checkpoint_paths(folder), *private_paths(folder)]:
        path.unlink()


def remove_unfinished(folder: str | Path) -> None:
    """Remove unfinished files of a process that was killed while writing, and of safetensors."""
    for path in _files(folder):
        if path.name.endswith(".partial") or path.name.startswith(".tmp"):
            path.unlink(missing_ok=True)


def checkpoint_paths(folder: str | Path) -> list[Path]:
    """Return the checkpoints in ``folder``, in no order. Raises StorageError."""
    return [path for path in _files(folder) if _NAME.fullmatch(path.name)]


def private_paths(folder: str | Path) -> list[Path]:
    """Return the files of private states in ``folder``, in no order. Raises StorageError."""
    return [path for path in _files(folder) if is_private_name(path.name)]


def _files(folder: str | Path) -> list[Path]:
    """Return the files among the checkpoints of ``folder``; ``Path.glob`` would hide that it cannot be listed."""
    path = Path(folder) / FOLDER
    with disk_errors(path, doing="read"):
        try:
            return list(path.iterdir())
        except FileNotFoundError:
            return []
