"""Reasons why Ray did not start, as far as its output shows them."""

import re
from pathlib import Path

from promptfleet.errors import first_line

TIMED_OUT = "timed out"  # Ray's words when one of its processes has ended, too
LOGS = ("raylet.err", "raylet.out", "gcs_server.err", "gcs_server.out")  # the cause comes last
FATAL = re.compile(r"^\[\S+ \S+ [CF] \d+ \d+\] (?:\(\w+\) )?\S+: +(?P<text>.+)$")  # [time C process thread] (who) file:
PREFACE = re.compile(r"^An unexpected system state has occurred.*?to fix it\. ")  # Ray's request to report a bug
WITHOUT = "train.py can do without Ray: --set runtime.backend=local"


def why_not_started(error: Exception, folder: Path) -> str:
    """Return one line for the error of ``ray.init``, whose temporary folder is given."""
    said = [
        PREFACE.sub("", found["text"])
        for name in LOGS
        for path in folder.glob(f"session_*/logs/{name}")
        for line in path.read_text(errors="replace").splitlines()
        if (found := FATAL.match(line))
    ]
    reason = said[-1] if said else first_line(error)
    if TIMED_OUT in (said[-1] if said else str(error)).lower():
        return f"Ray did not start; has this machine too much to do? ({reason})"
    return f"Ray did not start: {reason} ({WITHOUT})"
