"""Disks that refuse, in words: what, where, and what to do; and paths that no disk takes."""

import errno
import os
import stat
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
    """Return whether a disk or its file system is what refuses, and not a pipe, a process or a network."""
    return isinstance(error, OSError) and not isinstance(error, _NO_DISK) and error.errno in _REMEDIES


def storage_error(error: OSError, path: str | Path | None = None, *, doing: str = "used") -> StorageError:
    """Return an error that says what a disk refused, where, and what to do.

    path: what is named; the file that ``error`` names where it is left out.
    """
    named = error.filename2 or error.filename
    where = path or (os.fsdecode(named) if isinstance(named, (str, bytes, os.PathLike)) else "a file")
    remedy = _REMEDIES.get(error.errno)
    why = error.strerror or first_line(error)
    return StorageError(f"{where}: cannot be {doing} ({why})" + (f"; {remedy}" if remedy else ""))


@contextmanager
def disk_errors(path: str | Path | None = None, *, doing: str = "written") -> Iterator[None]:
    """Raise StorageError for what a disk refuses; also usable as a decorator.

    path: where every OSError is the disk's, to be named. Without it, only those are that ``is_disk_error`` knows, and
    the file is named that the system names.
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
    """Return why no disk takes ``text`` as a path, None where one may."""
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
    """Make nothing, and raise StorageError unless ``folder`` can be made, or files in it.

    Its name has to be UTF-8, since databases and JSON hold it. named: what the error calls it, such as ``--out mine``.
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
        if not os.access(place, os.W_OK | os.X_OK):
            read_only = os.statvfs(place).f_flag & os.ST_RDONLY
            number = errno.EROFS if read_only else errno.EACCES
            raise OSError(number, os.strerror(number))


def _mode(path: Path) -> int | None:
    """Return the type and permissions of what is there, None where nothing is."""
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
