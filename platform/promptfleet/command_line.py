"""What the jobs' command lines share: a mistake is one line on stderr and exit status 2."""

import argparse
import logging
import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stdout
from typing import Any, NoReturn, TextIO

from promptfleet.config_types import expand_home
from promptfleet.errors import PromptfleetError, did_you_mean, mask_secrets
from promptfleet.escaping import printable, printable_lines

STARTED = time.perf_counter()  # jobs import this before anything that takes long
USER_ERROR = 2
INTERRUPTED = 130


class ArgumentParser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage text.

    keys: all that ``--set`` knows, asked for an error alone; without it there is no ``--set``.
    """

    def __init__(self, *arguments: Any, keys: Callable[[], Iterable[str]] = tuple, **options: Any):
        super().__init__(*arguments, **options)
        self._keys = keys

    def add_set(self, help: str = "set a key of the federation, or several") -> None:
        """Add ``--set a=1 b=2``, which may be given again and again."""
        self.add_argument("--set", action="extend", nargs="+", default=[], metavar="KEY=VALUE", help=help)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._hint(unknown)}")
        return found

    def error(self, message: str) -> NoReturn:
        self.exit(USER_ERROR, f"{self.prog}: {printable(mask_secrets(message))} (see {self.prog} --help)\n")

    def _hint(self, unknown: Sequence[str]) -> str:
        """What to write for ``--clients 5``, ``--clients=5`` and ``clients=5``."""
        known = list(self._keys())
        options = [option for action in self._actions for option in action.option_strings]
        words, settings = list(unknown), []
        while words:
            name, equals, value = words.pop(0).partition("=")
            key = name.lstrip("-").replace("-", "_")
            if not equals and words and not words[0].startswith("--"):
                value = words.pop(0)
            if key in known:
                settings.append(f"{key}={value or 'VALUE'}")
            elif hint := did_you_mean(name, [*options, *(f"--{key}" for key in known)]):
                nearest = re.sub(r"^did you mean '--(.*)'\?$", r"\1", hint)
                return f"; did you mean --set {nearest}={value or 'VALUE'}?" if nearest in known else f"; {hint}"
        return f"; write --set {' '.join(settings)}" if settings else ""


def path_argument(text: str) -> str:
    """Return a path of the command line, with ``~`` replaced where the shell did not; for argparse's ``type``."""
    try:
        return expand_home(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


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
