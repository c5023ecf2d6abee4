"""What a job makes of the signals and of the user that it is run with."""

import os
import signal
from pathlib import Path
from types import FrameType

from promptfleet.job_output import is_unread


def end_as_ctrl_c_does() -> None:
    """Have SIGTERM, and SIGHUP unless ``nohup`` has it ignored, do what SIGINT would."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    is_unread()  # a terminal that has gone, where each word would be an error
    on_ctrl_c = signal.getsignal(signal.SIGINT)  # Tune has its own while it runs
    if not callable(on_ctrl_c):  # ignored, as in background jobs of a script
        raise KeyboardInterrupt
    on_ctrl_c(signal.SIGINT, frame)


def have_a_home() -> None:
    """Name a home where there is none, as in containers whose user has no account: libraries ask for it."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = os.sep
