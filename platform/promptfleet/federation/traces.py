"""Tracebacks as text: the line that raised, and the part that helps a method's author."""

import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

COLOR = re.compile(r"\x1b\[[0-9;]*m")
FRAME = re.compile(r'^ +File "(?P<file>.+)", line (?P<line>\d+), in (?P<function>.+)$')
MARKS = re.compile(r"^[ ~^]+$")  # under the part of a line that raised
NOT_THEIRS = (str(Path(__file__).parents[1]), sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), "<")


@dataclass
class Frame:
    """Entry of a traceback: its place, and its lines of text."""

    file: str
    line: int
    text: list[str] = field(default_factory=list)

    @property
    def is_own(self) -> bool:
        """True if the frame is neither this package's, nor Python's, nor an installed library's."""
        installed = self.file.startswith(NOT_THEIRS) or "site-packages" in Path(self.file).parts
        return not installed and self.file.endswith(".py")  # and not compiled

    def __str__(self) -> str:
        return f"{Path(self.file).name}:{self.line}"


def raised_at(trace: str) -> Frame | None:
    """Return the frame that raised; the last of the user's own if there is one."""
    frames = [entry for entry in _entries(trace) if isinstance(entry, Frame)]
    own = [frame for frame in frames if frame.is_own]
    return next(reversed(own or frames), None)


def own_trace(trace: str) -> str:
    """Return the traceback without colours, with the user's own frames only; all frames if there is none."""
    entries = list(_entries(trace))
    some_own = any(isinstance(entry, Frame) and entry.is_own for entry in entries)
    lines = []
    for entry in entries:
        if isinstance(entry, str):
            lines.append(entry)
        elif entry.is_own or not some_own:
            lines += entry.text
    return "\n".join(lines)


def _entries(trace: str) -> Iterator[Frame | str]:
    """Yield frames, and the lines between them."""
    frame = None
    for line in COLOR.sub("", trace).splitlines():
        if found := FRAME.match(line):
            if frame:
                yield frame
            frame = Frame(found["file"], int(found["line"]), [line])
        elif MARKS.match(line) and line.strip():
            continue
        elif frame and line.startswith("    "):
            frame.text.append(line)
        else:
            if frame:
                yield frame
            frame = None
            yield line
    if frame:
        yield frame
