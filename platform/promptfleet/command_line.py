"""Command lines of the jobs: a mistake is one line on stderr and exit status 2."""

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from promptfleet.config_types import expand_home
from promptfleet.disks import is_disk_error, storage_error
from promptfleet.errors import PromptfleetError, StorageError, did_you_mean, mask_secrets
from promptfleet.escaping import printable
from promptfleet.job_environment import end_as_ctrl_c_does
from promptfleet.job_output import UNREAD, flush_output, is_unread, log_to_stderr, printable_output
from promptfleet.terminal import line_start

USER_ERROR = 2
INTERRUPTED = 130


class ArgumentParser(argparse.ArgumentParser):
    """Parser that reports a mistake in one line, without the usage text.

    keys: all keys of ``--set``, called for an error alone; without it there is no ``--set``.
    """

    def __init__(self, *arguments: Any, keys: Callable[[], Iterable[str]] = tuple, **options: Any):
        super().__init__(*arguments, **options)
        self._keys = keys

    def add_set(self, help: str = "set a key of the federation, or several") -> None:
        """Add ``--set a=1 b=2``, which may be repeated."""
        self.add_argument("--set", action="extend", nargs="+", default=[], metavar="KEY=VALUE", help=help)

    def add_trust_code(self) -> None:
        """Add ``--trust-code``, for jobs that read configurations."""
        self.add_argument(
            "--trust-code", action="store_true", help="import a method outside promptfleet that a file names"
        )

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._hint(unknown)}")
        for action in self._actions:
            if getattr(found, action.dest, None) == "":
                name = "/".join(action.option_strings) or action.metavar
                self.error(f"argument {name}: got an empty text; leave it out for the default")
        return found

    def error(self, message: str) -> NoReturn:
        self.exit(USER_ERROR, f"{self.prog}: {printable(mask_secrets(message))} (see {self.prog} --help)\n")

    def _hint(self, unknown: Sequence[str]) -> str:
        """Name the option to write for ``--clients 5``, ``--clients=5`` and ``clients=5``."""
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


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run a job's ``main`` and exit with its status. A refusing disk is one line, too."""
    end_as_ctrl_c_does()
    log_to_stderr()
    try:
        with printable_output():
            status = _status(main)
        flush_output()
    except BrokenPipeError:
        if not is_unread():
            raise
        status = UNREAD
    except StorageError as error:  # at the end of what was buffered
        print(f"error: {error}", file=sys.stderr)
        status = USER_ERROR
    sys.exit(status or 0)


def _status(main: Callable[[], int | None]) -> int | str | None:
    try:
        return main()
    except SystemExit as leaving:  # argparse's, for --help and a wrong option
        return leaving.code
    except PromptfleetError as error:
        print(f"{line_start(sys.stderr)}error: {error}", file=sys.stderr)
        return USER_ERROR
    except OSError as error:
        if not is_disk_error(error):
            raise
        print(f"{line_start(sys.stderr)}error: {storage_error(error)}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt as interrupt:
        text = "; ".join(["interrupted", *map(str, interrupt.args)])
        print(f"{line_start(sys.stderr)}{text}", file=sys.stderr)
        return INTERRUPTED
