"""What the jobs' command lines share: a mistake is one line on stderr and exit status 2."""

import argparse
import logging
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from promptfleet.errors import PromptfleetError

STARTED = time.perf_counter()  # jobs import this before anything that takes long
USER_ERROR = 2
INTERRUPTED = 130


class ArgumentParser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage text."""

    def error(self, message: str) -> NoReturn:
        self.exit(USER_ERROR, f"{self.prog}: {message} (see {self.prog} --help)\n")


def seconds_since_start() -> float:
    """How long this job has been running, its imports included."""
    return time.perf_counter() - STARTED


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run a job's ``main`` and exit with its status."""
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("promptfleet").setLevel(logging.INFO)
    try:
        status = main()
    except PromptfleetError as error:
        print(f"error: {error}", file=sys.stderr)
        status = USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = INTERRUPTED
    sys.exit(status or 0)
