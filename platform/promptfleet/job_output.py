"""Output of a job for people: plain text, without the messages of libraries, as long as its reader is there."""

import logging
import os
import select
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, TextIO

from promptfleet.disks import is_disk_error, storage_error
from promptfleet.escaping import printable, printable_lines
from promptfleet.terminal import line_start

UNREAD = 128 + signal.SIGPIPE  # the shell's status of other tools that end so


def log_to_stderr() -> None:
    """Log on standard error: the package's messages from INFO on, of libraries only errors."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    logging.basicConfig(level=logging.ERROR, handlers=[handler])
    logging.getLogger("promptfleet").setLevel(logging.INFO)
    if not sys.warnoptions:  # python -W and PYTHONWARNINGS show them
        warnings.simplefilter("ignore")


@contextmanager
def printable_output() -> Iterator[None]:
    """Make standard output draw nothing but text, also if names of classes and files hold control characters."""
    with redirect_stdout(_PrintableOutput(sys.stdout)) if sys.stdout else redirect_stdout(None):
        yield


def flush_output() -> None:
    """Write the buffered output. Raises StorageError: the disk refuses it; BrokenPipeError: it has no reader."""
    for stream in _streams():
        with _given_up_if_refused(stream):
            stream.flush()


def is_unread() -> bool:
    """Return True if standard output or error has lost its reader; such a stream is discarded, so nothing fails."""
    unread = [stream for stream in _streams() if _has_no_reader(stream)]
    for stream in unread:
        _give_up(stream)
    return bool(unread)


@contextmanager
def _given_up_if_refused(stream: TextIO) -> Iterator[None]:
    """Raise StorageError if a disk refuses, once: the rest of the buffer is discarded."""
    try:
        yield
    except OSError as error:
        if not is_disk_error(error):
            raise
        _give_up(stream)
        name = "standard error" if stream is sys.stderr else "standard output"
        raise storage_error(error, name, doing="written") from None


def _give_up(stream: TextIO) -> None:
    """Discard the buffered text of a stream and all later text."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _streams() -> list[TextIO]:
    """Return the open streams."""
    return [stream for stream in (sys.stdout, sys.stderr) if stream is not None]


def _has_no_reader(stream: TextIO) -> bool:
    poll = select.poll()
    try:
        poll.register(stream.fileno(), 0)
    except (OSError, ValueError):  # no file is behind it, or it is closed
        return False
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


class _PrintableOutput:
    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        encoding = self._stream.encoding or "utf-8"
        with _given_up_if_refused(self._stream):
            self._stream.write(printable_lines(text).encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Lines(logging.Formatter):
    """Messages without the names of loggers; the level is shown above INFO."""

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        return f"{line_start(sys.stderr)}{level}{super().format(record)}"

    def formatMessage(self, record: logging.LogRecord) -> str:
        ours = record.name.partition(".")[0] == "promptfleet"
        return (printable if ours else printable_lines)(super().formatMessage(record))
