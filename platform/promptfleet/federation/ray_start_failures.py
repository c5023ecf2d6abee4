"""The reason why Ray did not start, as far as it can be told."""

from collections.abc import Iterator
from pathlib import Path

from promptfleet.errors import first_line

TIMED_OUT = "timed out"  # what Ray says when one of its processes has ended, too
LOGS = ("gcs_server.err", "gcs_server.out", "raylet.err", "raylet.out")
WITHOUT = "train.py can do without Ray: --set runtime.backend=local"


def why_not_started(error: Exception, folder: Path) -> str:
    """One line for the error of ``ray.init``, whose temporary folder is given."""
    fatal = next(_fatal_lines(folder), None)
    if fatal is not None:
        return f"Ray did not start: {fatal} ({WITHOUT})"
    if TIMED_OUT in str(error):
        return f"Ray did not start; has this machine too much to do? ({first_line(error)})"
    return f"Ray did not start: {first_line(error)} ({WITHOUT})"


def _fatal_lines(folder: Path) -> Iterator[str]:
    """What Ray's processes said last before they ended."""
    for name in LOGS:
        for path in sorted(folder.glob(f"session_*/logs/{name}")):
            for line in path.read_text(errors="replace").splitlines():
                if "] (" in line and (" C " in line or " F " in line or "Check failed" in line):
                    yield line.rpartition(": ")[2] if False else line
