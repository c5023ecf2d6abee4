"""Errors of disks in words: the reason, the place and the remedy; and paths that no disk accepts."""

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from promptfleet.errors import StorageError, first_line

LONGEST_NAME = 255  # bytes of a file's name, on all usual file systems
LONGEST_PATH = 4095  # bytes of a path
_SPACE = "free some space, or use a folder on another disk"
_RIGHTS = "change its permissions, or use another folder"
_LOOK = "look after the disk or the mount, then start the same command again"
_FILE = "there is a file where a folder should be"
_FOLDER = "there is a folder where a file should be"
_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _SPACE),
    **dict.fromkeys((errno.EACCES, errno.EPERM), _RIGHTS),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), _FILE),
    **dict.fromkeys((errno.EISDIR, errno.ENOTEMPTY), _FOLDER),
    **dict.fromkeys((errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ENOTCONN, errno.EREMOTEIO), _LOOK),
    errno.EROFS: "use a folder that can be written",
    errno.ENOENT: "it is missing, or was removed meanwhile",
    errno.ELOOP: "its links lead in a circle",
    errno.ENAMETOOLONG: "use shorter names",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the system's limit of open files",
    errno.EBUSY: "something else uses it",
    errno.ENOLCK: "its file system has no locks; use a folder on another one",
    errno.EINVAL: "its file system cannot do this; use a folder on another one",
    errno.ENOTSUP: "its file system cannot do this; use a folder on another one",
}
_NO_DISK = (ConnectionError, TimeoutError, ChildProcessError, ProcessLookupError)


def is_disk_error(error: BaseException) -> bool:
    """Return True if a disk or its file system refuses, and not a pipe, a process or a network."""
    return isinstance(error, OSError) and not isinstance(error, _NO_DISK) and error.errno in _REMEDIES


def storage_error(error: OSError, path: str | Path | None = None, *, doing: str = "used") -> StorageError:
    """Return an error with the disk's refusal, its place and a remedy.

    path: the path to name; by default the file that ``error`` names.
    """
    named = error.filename2 or error.filename
    where = path or (os.fsdecode(named) if isinstance(named, (str, bytes, os.PathLike)) else "a file")
    remedy = _REMEDIES.get(error.errno)
    why = error.strerror or first_line(error)
    return StorageError(f"{where}: cannot be {doing} ({why})" + (f"; {remedy}" if remedy else ""))


@contextmanager
def disk_errors(path: str | Path | None = None, *, doing: str = "written") -> Iterator[None]:
    """Raise StorageError for a disk's refusal; also usable as a decorator.

    path: if given, every OSError counts as the disk's, and this path is named. Without it, only errors that
    ``is_disk_error`` knows count, and the file that the system names is named.
    """
    try:
        yield
    except _NO_DISK:
        raise
    except OSError as error:
        if path is None and not is_disk_error(error):
            raise
        raise storage_error(error, path, doing=doing) from error


def unusable_path(text: str) -> str | None:
    """Return the reason why no disk accepts ``text`` as a path, None if one may."""
    try:
        parts = os.fsencode(text).split(b"/")
    except UnicodeEncodeError:
        return "has characters that no name of a file can have"
    if b"\0" in b"/".join(parts):
        return "has a NUL byte"
    if (longest := max(map(len, parts))) > LONGEST_NAME:
        return f"has a name of {longest} bytes, should be at most {LONGEST_NAME}"
    if len(os.fsencode(text)) > LONGEST_PATH:
        return f"has {len(os.fsencode(text))} bytes, should be at most {LONGEST_PATH}"
    return None


def check_writable(folder: str | Path, *, named: str | None = None) -> None:
    """Raise StorageError unless ``folder``, or files in it, can be made. Nothing is left of the attempt.

    Its name has to be UTF-8, since databases and JSON hold it. named: its name in the error, such as ``--out mine``.
    """
    named = named or str(folder)
    reason = unusable_path(str(folder)) or _unless_utf8(str(folder))
    if reason:
        raise StorageError(f"{named}: {reason}")
    place = Path(folder).absolute()
    with disk_errors(named):
        while (mode := _mode(place)) is None:
            place = place.parent
        if not stat.S_ISDIR(mode):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        _make_and_remove_folder(place)


def _make_and_remove_folder(place: Path) -> None:
    """Raise OSError if no folder can be made in ``place``. Permissions do not say it: root has them in /proc, too."""
    try:
        made = tempfile.mkdtemp(prefix=".promptfleet-", dir=place)
    except FileNotFoundError:  # such as /proc, which has no place for new names
        if not place.exists():  # removed meanwhile
            raise
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP)) from None
    os.rmdir(made)


def _mode(path: Path) -> int | None:
    """Return the type and permissions of the file at ``path``, None if there is none."""
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        if os.path.lexists(path):
            raise  # a link that leads nowhere
        return None


def _unless_utf8(text: str) -> str | None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return "is not UTF-8, as the names of results have to be"
    return None
