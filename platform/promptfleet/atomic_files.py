"""Files that are complete or missing, also if their readers or writers die."""

import fcntl
import math
import os
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary name next to ``path`` to write to; on leaving, that file becomes ``path`` in one step.

    A missing folder is made. The content is on disk before the name changes, so a power cut leaves the old file or the
    new one. Each writer has its own temporary name, also among threads and machines: the last one wins. The file gets
    the permissions that the umask gives a new file, independent of the library that writes it. After an exception
    ``path`` is as before and the temporary file is removed; a killed process leaves a harmless ``.partial`` file.

    Raises:
        OSError: if the disk refuses, or the block wrote no file; it names ``path``.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        permissions = _permissions_of_new(partial)
        yield partial
        with open(partial, "rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) != permissions:
                os.fchmod(file.fileno(), permissions)
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(partial), partial):
            raise type(error)(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def locked(
    path: str | Path, on_wait: Callable[[], None] = lambda: None, *, timeout_s: float = math.inf
) -> Iterator[None]:
    """Hold the lock called ``path``, in this and all other processes; ``on_wait`` is called before waiting for it.

    The system releases the lock of a dead process at once. The file is removed afterwards. Raises TimeoutError if
    another process holds it for longer than ``timeout_s``.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with open(path, "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_wait()
                _wait_for_lock(file.fileno(), timeout_s)
            if not _is_open_as(file.fileno(), path):
                continue  # its former holder has removed the file, and another process may hold the next one
            try:
                yield
            finally:
                with suppress(OSError):  # the disk is missing or read-only: a lock left there is no process's
                    path.unlink()
            return


def _permissions_of_new(path: Path) -> int:
    """Return the permissions of a new file called ``path``. The umask itself cannot be read without setting it."""
    with open(path, "xb") as file:
        permissions = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    path.unlink()
    return permissions


def _wait_for_lock(descriptor: int, timeout_s: float) -> None:
    if timeout_s == math.inf:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise TimeoutError from None
        time.sleep(min(0.2, timeout_s))


def _is_open_as(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
