"""Signals and user of a job: SIGTERM and SIGHUP end it as Ctrl-C does, and it runs without a home."""

import os
import signal
import sys
from pathlib import Path
from types import FrameType, TracebackType

from promptfleet.job_output import is_unread


def say_interrupted(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Replace ``sys.excepthook``: Ctrl-C while a job is still importing is one line, as it is later."""
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def have_a_home() -> None:
    """Set a home folder if there is none, as in containers whose user has no account: libraries ask for it."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = os.sep


sys.excepthook = say_interrupted  # both are for the time in which a job imports, too
have_a_home()


def end_as_ctrl_c_does() -> None:
    """Let SIGTERM, and SIGHUP unless ``nohup`` has it ignored, act like SIGINT."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    is_unread()  # a closed terminal, where each word would be an error
    on_ctrl_c = signal.getsignal(signal.SIGINT)  # Tune has its own while it runs
    if not callable(on_ctrl_c):  # ignored, as in background jobs of a script
        raise KeyboardInterrupt
    on_ctrl_c(signal.SIGINT, frame)
