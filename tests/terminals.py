"""A terminal of a width that can change, and what stands on it."""

import fcntl
import io
import os
import pty
import select
import struct
import termios
import tty
from collections.abc import Callable

from promptfleet.terminal import START_OF_LINE


class Terminal:
    """A pseudo-terminal. ``stream`` is a program's side of it."""

    def __init__(self, columns: int = 80):
        self._ours, theirs = pty.openpty()
        tty.setraw(theirs)
        self._written = b""
        self.stream = _Side(os.fdopen(theirs, "wb", buffering=0), self._read)
        self.resize(columns)

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def written(self) -> str:
        """Return all that was written so far, with its control sequences."""
        self._read()
        return self._written.decode()

    def shown(self) -> str:
        """Return the lines that stand there, without those that were rewritten."""
        return "\n".join(line.rpartition(START_OF_LINE)[2] for line in self.written().replace("\r\n", "\n").split("\n"))

    def _read(self) -> None:
        while select.select([self._ours], [], [], 0)[0]:
            self._written += os.read(self._ours, 65536)

    def close(self) -> None:
        self.stream.close()
        os.close(self._ours)


class _Side(io.TextIOWrapper):
    """Has what was written read at once, since a terminal takes no more than a few kilobytes unread."""

    def __init__(self, file: io.RawIOBase, read: Callable[[], None]):
        super().__init__(io.BufferedWriter(file), encoding="utf-8")
        self._read_by_us = read

    def flush(self) -> None:
        super().flush()
        self._read_by_us()
