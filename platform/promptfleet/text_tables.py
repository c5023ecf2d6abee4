"""Tables and lines no wider than the terminal. Cells are data: none of their text is read as markup."""

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from promptfleet.terminal import columns_of, fold

ELSEWHERE = 120  # columns in a pipe or a file
_FOLDED = 3  # tables of this many columns have longer cells instead of further tables


def output_columns() -> int:
    """Return the current width of standard output."""
    return columns_of(sys.stdout) or ELSEWHERE


def folded(text: str) -> str:
    """Return a line, folded into several if the terminal is too narrow."""
    return "\n".join(fold(text, columns_of(sys.stdout)))


def render(table: Table, *, width: int | None = None) -> str:
    """Return the table as text, without spaces at the ends of lines.

    ``width`` is that of the output unless it is given. Columns for which it has no room follow in further tables,
    which begin with the first column again; cells that are still too wide are folded.
    """
    width = width or output_columns()
    plain = {"force_terminal": False, "no_color": True, "markup": False, "emoji": False, "highlight": False}
    console = Console(width=width, **plain)
    with console.capture() as capture:
        for part in _parts(table, console):
            console.print(part)
    return "\n".join(line.rstrip() for line in capture.get().rstrip().split("\n"))


def _parts(table: Table, console: Console) -> list[Table]:
    if len(table.columns) <= _FOLDED or _fits(table, console):
        return [_with_columns(table, range(len(table.columns)), title=True)]
    groups: list[list[int]] = [[0]]
    for index in range(1, len(table.columns)):
        if len(groups[-1]) > 1 and not _fits(_with_columns(table, [*groups[-1], index]), console):
            groups.append([0])
        groups[-1].append(index)
    return [_with_columns(table, group, title=number == 0) for number, group in enumerate(groups)]


def _fits(table: Table, console: Console) -> bool:
    unlimited = console.options.update(width=10 * console.width + 1000)
    return Measurement.get(console, unlimited, table).maximum <= console.width


def _with_columns(table: Table, wanted: Sequence[int], *, title: bool = False) -> Table:
    part = Table(
        title=table.title if title else None,
        title_justify="left",
        box=table.box,
        padding=table.padding,
        pad_edge=table.pad_edge,
    )
    for index in wanted:
        column = table.columns[index]
        part.add_column(column.header, justify=column.justify, overflow="fold")
    for cells in zip(*(table.columns[index].cells for index in wanted), strict=True):
        part.add_row(*cells)
    return part
