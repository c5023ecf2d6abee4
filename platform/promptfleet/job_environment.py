"""What a job makes of the signals and of the user that it is run with."""

import errno
import os
import signal
import termios
from pathlib import Path
from types import FrameType


def end_as_ctrl_c_does() -> None:
    """Have SIGTERM, and SIGHUP unless ``nohup`` has it ignored, do what SIGINT would."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    for output in (1, 2):
        if _has_hung_up(output):
            os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    on_ctrl_c = signal.getsignal(signal.SIGINT)  # Tune has its own while it runs
    if not callable(on_ctrl_c):  # ignored, as in background jobs of a script
        raise KeyboardInterrupt
    on_ctrl_c(signal.SIGINT, frame)


def _has_hung_up(descriptor: int) -> bool:
    """Whether it is a terminal that is no longer there, where each word would be an error."""
    try:
        termios.tcgetattr(descriptor)
    except termios.error as error:
        return error.args[0] == errno.EIO
    return False


def have_a_home() -> None:
    """Name a home where there is none, as in containers whose user has no account: libraries ask for it."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = os.sep
