"""What the jobs' command lines share: a mistake is one line on stderr and exit status 2."""

import argparse
import logging
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any, NoReturn, TextIO

from promptfleet.errors import PromptfleetError
from promptfleet.escaping import printable, printable_lines

STARTED = time.perf_counter()  # jobs import this before anything that takes long
USER_ERROR = 2
INTERRUPTED = 130


class ArgumentParser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage text."""

    def error(self, message: str) -> NoReturn:
        self.exit(USER_ERROR, f"{self.prog}: {printable(message)} (see {self.prog} --help)\n")


def seconds_since_start() -> float:
    """How long this job has been running, its imports included."""
    return time.perf_counter() - STARTED


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run a job's ``main`` and exit with its status."""
    _set_up_log()
    try:
        with redirect_stdout(_PrintableOutput(sys.stdout)):
            status = main()
    except PromptfleetError as error:
        print(f"error: {error}", file=sys.stderr)
        status = USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = INTERRUPTED
    sys.exit(status or 0)


class _PrintableOutput:
    """Standard output that draws nothing but text, whatever names of classes and files are in it."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        encoding = self._stream.encoding or "utf-8"
        self._stream.write(printable_lines(text).encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _PrintableFormatter(logging.Formatter):
    """Log lines that draw nothing but text; what libraries log may have several lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        ours = record.name.partition(".")[0] == "promptfleet"
        return (printable if ours else printable_lines)(super().formatMessage(record))


def _set_up_log() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_PrintableFormatter("%(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("promptfleet").setLevel(logging.INFO)
