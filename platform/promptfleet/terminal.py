"""Lines that fit a terminal's width, where wide characters take two columns."""

import os
from collections.abc import Sequence
from typing import TextIO

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from promptfleet.escaping import printable

USUAL_COLUMNS = 80  # of a terminal that does not know its size
START_OF_LINE = "\r\x1b[K"  # moves there and clears what is in the line
_INDENT = "    "


def columns_of(stream: TextIO | None) -> int | None:
    """Return the current number of columns of the terminal behind ``stream``, None if it is no terminal."""
    try:
        if stream is None or not stream.isatty():
            return None
        return os.get_terminal_size(stream.fileno()).columns or USUAL_COLUMNS
    except (OSError, ValueError):  # closed, or a stream without a file
        return None


def line_start(stream: TextIO | None) -> str:
    """Return the start of a line that replaces one that was to be rewritten; nothing elsewhere."""
    return START_OF_LINE if columns_of(stream) is not None else ""


def cut(text: str, columns: int) -> str:
    """Return the part of ``text`` that fits into ``columns``; it ends in "…" if something is left out."""
    if cell_len(text) <= columns:
        return text
    return f"{set_cell_size(text, columns - 1).rstrip()}…" if columns > 1 else ""


def fold(text: str, columns: int | None) -> Sequence[str]:
    """Return ``text`` as lines of at most ``columns``, the second and later ones indented; None is no limit."""
    if columns is None or cell_len(text) <= columns:
        return [text]
    width = max(columns - len(_INDENT), 1)
    console = Console(width=width, markup=False, emoji=False, highlight=False)
    first, *rest = (line.plain.rstrip() for line in Text(text).wrap(console, width))
    return [first, *(f"{_INDENT}{line}" for line in rest)]


class LiveLine:
    """The last line of a terminal, which is rewritten in place, below lines that stay; elsewhere nothing is rewritten.

    Each is fitted to the terminal's width at that moment, and draws nothing but text.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    @property
    def is_live(self) -> bool:
        return columns_of(self._stream) is not None

    def say(self, text: str) -> None:
        """Write a line that stays."""
        lines = "\n".join(fold(printable(text), columns_of(self._stream)))
        print(f"{line_start(self._stream)}{lines}", file=self._stream, flush=True)

    def rewrite(self, text: str) -> None:
        """Replace what the last line shows, on a terminal alone."""
        columns = columns_of(self._stream)
        if columns is not None:  # a full line would make some terminals start another one
            print(f"{START_OF_LINE}{cut(printable(text), columns - 1)}", end="", file=self._stream, flush=True)

    def clear(self) -> None:
        """Leave the terminal at the start of an empty line."""
        self.rewrite("")
