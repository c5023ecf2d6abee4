"""Tables of a comparison as values, as Markdown, as LaTeX and as CSV."""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from textwrap import fill

from promptfleet.escaping import latex, markdown

MARKDOWN_WIDTH = 120  # characters; further columns follow in further tables
LATEX_WIDTH = 100
_BETWEEN, _BOLD = 3, 4  # characters between two columns, and around bold ones
Cells = Sequence[str]


@dataclass(frozen=True)
class Table:
    """Cells below ``headers``, the first column being the name of the row; ``bold`` has the positions of the best."""

    title: str
    headers: Cells
    rows: Sequence[Cells]
    bold: frozenset[tuple[int, int]] = frozenset()
    legend: str = ""

    def parts(self, width: int) -> "list[Table]":
        """Return the table in parts of at most ``width`` characters, each with the first column, the legend last."""
        lengths = [
            [len(cell) + _BOLD * ((row, column) in self.bold) for column, cell in enumerate(cells)]
            for row, cells in enumerate(self.rows)
        ]
        widths = [max(column) + _BETWEEN for column in zip(map(len, self.headers), *lengths, strict=True)]
        groups: list[list[int]] = [[]]
        for index in range(1, len(widths)):
            if groups[-1] and 1 + widths[0] + sum(widths[other] for other in [*groups[-1], index]) > width:
                groups.append([])
            groups[-1].append(index)
        parts = [self._with_columns([0, *group]) for group in groups]
        return [*(replace(part, legend="") for part in parts[:-1]), parts[-1]]

    def _with_columns(self, chosen: Sequence[int]) -> "Table":
        places = {index: place for place, index in enumerate(chosen)}
        return replace(
            self,
            headers=[self.headers[index] for index in chosen],
            rows=[[row[index] for index in chosen] for row in self.rows],
            bold=frozenset((row, places[column]) for row, column in self.bold if column in places),
        )


def as_markdown(tables: Iterable[Table]) -> str:
    """Return tables with their legends, also readable as text: columns are aligned, lines at most 120 characters."""
    lines = []
    for table in tables:
        lines += [f"**{table.title}**", "", *map(_markdown, table.parts(MARKDOWN_WIDTH))]
    return "\n".join(lines)


def as_latex(tables: Iterable[Table]) -> str:
    """Return a ``tabular`` with booktabs' rules for each table."""
    parts = [_latex(part) for table in tables for part in table.parts(LATEX_WIDTH)]
    return "\n".join([r"% needs \usepackage{booktabs}", *parts])


def as_csv(headers: Cells, rows: Iterable[Sequence[object]]) -> str:
    """Return comma-separated values; None is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(headers)
    writer.writerows(rows)
    return text.getvalue()


def _markdown(table: Table) -> str:
    rows = _marked(table, markdown, _bold_markdown)
    widths = [max(map(len, column)) for column in zip(table.headers, *rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [_line(cells, widths) for cells in (table.headers, rule, *rows)]
    legend = [fill(table.legend, MARKDOWN_WIDTH), ""] if table.legend else []
    return "\n".join([*lines, "", *legend])


def _marked(table: Table, plain: Callable[[str], str], bold: Callable[[str], str]) -> list[list[str]]:
    """Return the rows with ``bold`` of the best cells and ``plain`` of the others."""
    return [
        [(bold if (row, column) in table.bold else plain)(cell) for column, cell in enumerate(cells)]
        for row, cells in enumerate(table.rows)
    ]


def _bold_markdown(cell: str) -> str:
    return f"**{markdown(cell)}**" if cell else ""


def _line(cells: Cells, widths: Sequence[int]) -> str:
    first, *others = zip(cells, widths, strict=True)
    return f"| {' | '.join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)])} |"


def _latex(table: Table) -> str:
    rows = _marked(table, latex, lambda cell: rf"\textbf{{{latex(cell)}}}")
    return "\n".join(
        [
            f"% {table.title}",
            rf"\begin{{tabular}}{{l{'r' * (len(table.headers) - 1)}}}",
            r"\toprule",
            f"{' & '.join(map(latex, table.headers))} \\\\",
            r"\midrule",
            *(f"{' & '.join(row)} \\\\" for row in rows),
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )
