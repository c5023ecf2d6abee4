"""The temporary folder of a Ray that a driver starts: logs, sockets, and the fork server's program."""

import contextlib
import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from promptfleet.errors import ResourceError

logger = logging.getLogger(__name__)

PREFIX, LOCK = "pf-", "lock"
SOCKET_BYTES = 107  # longest path of a socket in Linux
LONGEST_BELOW = len("/pf-abcdefgh/session_2026-11-28_05-18-55_123456_4194304/sockets/plasma_store")
LONGEST = SOCKET_BYTES - LONGEST_BELOW
SHARED_MEMORY = "/dev/shm"
USUAL = ("/tmp", "/var/tmp", SHARED_MEMORY)
LOG_BYTES = 2**26  # Ray hangs where it cannot write its logs


@contextlib.contextmanager
def ray_folder(object_store_bytes: int) -> Iterator[Path]:
    """Make a folder for one driver, which is removed after the block; with room for objects beyond ``/dev/shm``.

    Folders of killed drivers are removed first. The folder is in ``RAY_TMPDIR``, else where Python keeps temporary
    files, else, if that path is too long for sockets, full, or cannot be written, where there usually is room.

    Raises:
        ResourceError: there is no such place.
    """
    parent = _parent(LOG_BYTES + _beside_shared_memory(object_store_bytes))
    _remove_abandoned(parent)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    with (folder / "new").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (folder / "new").rename(folder / LOCK)  # only now it can be found and taken for abandoned
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _beside_shared_memory(wanted: int) -> int:
    """Return the bytes of Ray's objects in its folder: all, if shared memory has too little room for them."""
    free = _free_bytes(SHARED_MEMORY) if os.path.isdir(SHARED_MEMORY) else 0
    if free >= wanted:
        return 0
    logger.info(
        "Ray's objects are on disk, which is slower: %s has %d MB left, they take %d MB",
        SHARED_MEMORY,
        *_mb(free, wanted),
    )
    return wanted


def _free_bytes(folder: str) -> int:
    status = os.statvfs(folder)
    return status.f_frsize * status.f_bavail


def _mb(*sizes: int) -> list[int]:
    return [size // 2**20 for size in sizes]


def _parent(needed: int) -> str:
    wanted = os.environ.get("RAY_TMPDIR")
    places = [wanted] if wanted else filter(None, [os.environ.get("TMPDIR"), *USUAL])
    problems = []
    for parent in dict.fromkeys(map(os.path.abspath, places)):
        problem = _problem(parent, needed)
        if problem is None:
            if problems:
                logger.info("Ray keeps its temporary files in %s: %s", parent, ", ".join(problems))
            return parent
        problems.append(f"{parent} {problem}")
    reasons = ", ".join(problems)
    raise ResourceError(f"Ray has no folder for its temporary files: {reasons}; set RAY_TMPDIR to another one")


def _problem(folder: str, needed: int) -> str | None:
    """Return the reason why Ray cannot keep its sockets there, if there is one."""
    try:
        length = len(folder.encode())
        if length > LONGEST:
            return f"is too long for sockets ({length} bytes, at most {LONGEST})"
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
        free = _free_bytes(folder)
        if free < needed:
            return "has {} MB left, at least {} MB are needed".format(*_mb(free, needed))
    except OSError as error:
        return f"cannot be written ({error.strerror})"
    except UnicodeEncodeError:
        return "is not UTF-8"
    return None


def _remove_abandoned(parent: str) -> None:
    for folder in Path(parent).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, in use, or just removed by another driver
            status = folder.lstat()
            if status.st_uid != os.getuid() or folder.is_symlink():
                continue
            with (folder / LOCK).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
