"""Tables for a terminal, whose cells are data: nothing in them is understood as markup."""

from rich.console import Console
from rich.table import Table

WIDTH = 120


def render(table: Table) -> str:
    """Return the table as text of at most ``WIDTH`` columns, without spaces at the ends of lines."""
    console = Console(width=WIDTH, no_color=True, markup=False, emoji=False, highlight=False)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().rstrip().split("\n"))
