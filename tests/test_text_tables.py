"""Tables that fit whatever they are written to."""

import sys

import pytest
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.table import Table

from promptfleet.text_tables import ELSEWHERE, folded, output_columns, render

HEADERS = (
    "method",
    "test accuracy",
    "at best val. round",
    "worst client",
    "spread",
    "up KB",
    "down KB",
    "seconds",
    "p-value",
)
ROWS = [[name, *(f"{row}{column} ± 0.4" for column in range(8))] for row, name in enumerate(["pfedmoap", "漢字の方法"])]


def table(headers=HEADERS, rows=ROWS, **look):
    made = Table(title="comparison", title_justify="left", **look)
    for header in headers:
        made.add_column(header, justify="right")
    for row in rows:
        made.add_row(*row)
    return made


@pytest.mark.parametrize("look", [{}, {"box": SIMPLE_HEAD, "padding": (0, 1, 0, 0), "pad_edge": False}])
@pytest.mark.parametrize("width", [40, 60, 80, 120, 300])
def test_columns_without_room_follow_below_beside_the_first_one(width, look):
    text = render(table(**look), width=width)
    lines = text.splitlines()
    assert max(map(cell_len, lines)) <= width
    for header in HEADERS[1:]:
        assert text.count(header) == 1, "whole"
    for row in ROWS:
        assert all(text.count(cell) == 1 for cell in row[1:])
        assert text.count(row[0]) == text.count("method")
    assert text.count("comparison") == 1
    assert width < 300 or text.count("method") == 1
    assert width > 80 or text.count("method") > 1


def test_long_cells_of_few_columns_are_folded():
    text = render(table(("key", "value"), [("data.root", "x" * 100), ("words", "a b " * 40)]), width=60)
    assert max(map(cell_len, text.splitlines())) <= 60
    assert text.count("x") == 100
    assert text.count("key") == 1


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_width_is_that_of_the_terminal_at_the_moment(terminal, monkeypatch, columns):
    monkeypatch.setattr(sys, "stdout", terminal.stream)
    terminal.resize(columns)
    assert output_columns() == columns
    text = render(table())
    assert "\x1b" not in text, "also on a terminal: jobs write such characters as what they are"
    assert max(map(cell_len, text.splitlines())) <= columns
    assert max(map(cell_len, folded("accuracy=0.5  " * 20).splitlines())) <= columns


def test_in_a_pipe_tables_have_the_usual_width_and_lines_are_left_as_they_are(capsys):
    assert output_columns() == ELSEWHERE == 120
    assert folded("x" * 500) == "x" * 500
