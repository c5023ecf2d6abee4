"""Files that are there complete or not at all, whoever reads, writes or dies meanwhile."""

import fcntl
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary name beside ``path`` to write to; on leaving, that file becomes ``path`` in one step.

    The folder is made where it is missing. The content is on disk before the name changes, so a power cut leaves the
    old file or the new one. No two writers share a temporary name, be they threads or machines: the last one wins.
    After an exception ``path`` is as it was and the temporary file is gone; a killed process leaves a ``.partial``
    file, which is in nobody's way.

    Raises:
        OSError: if the disk refuses, or the block wrote no file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def locked(path: str | Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock called ``path``, in this and all other processes; ``on_wait`` is called before waiting for it.

    The system gives a dead process's lock back at once. The file is gone afterwards.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with open(path, "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_wait()
                fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_open_as(file.fileno(), path):
                continue  # whoever held it has removed the file, and somebody else may hold the next one
            try:
                yield
            finally:
                path.unlink()
            return


def _is_open_as(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
