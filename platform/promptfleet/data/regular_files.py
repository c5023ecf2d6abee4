"""Files of a dataset, opened without waiting: a named pipe in their place would wait for its writer forever."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from promptfleet.errors import DataError

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file, or a link to one, for reading.

    Raises:
        OSError: if it is missing or may not be read.
        DataError: if it is anything but a regular file.
    """
    return os.fdopen(regular_descriptor(path)[0], "rb")


def regular_descriptor(path: str | Path) -> tuple[int, os.stat_result]:
    """Open a regular file like ``open_regular``, but return its descriptor, which the caller closes, and its status."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket, or a device that is not there
            raise _not_regular(path, os.stat(path)) from None
        raise
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise _not_regular(path, status)
    return descriptor, status


def _not_regular(path: str | Path, status: os.stat_result) -> Exception:
    if stat.S_ISDIR(status.st_mode):
        return IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
    return DataError(f"{path}: is {kind}, should be a regular file")
