"""Names with markup: whatever is in them, each kind of output shows it as text."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.table import Table

from promptfleet.escaping import encodable, latex, markdown, markdown_code, printable, printable_lines
from promptfleet.text_tables import render

NAMES = ["[red]apple", "[/]", ":smile:", "$x$ ray", "a|b", "*bold* __x__", "`code``", "<b>x</b>", "&lt;", "\\", "a_b"]
SPECIAL = "*_`|[]()<>$&~!\\#{}^%a 1"
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.text(SPECIAL, max_size=12)
READER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def inline_of_cell(text):
    """The one cell of a Markdown table: kinds and contents of what is in it."""
    tokens = READER.parse(f"| head |\n| --- |\n| x{text}x |\n")
    (cell,) = [token for token in tokens if token.type == "inline" and token.content != "head"]
    return cell.children


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 猫", "plain é 猫"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\u202eabc\u200f", r"\u202eabc\u200f"),
        ("caf\udce9", r"caf\xe9"),
        ("\ud800", r"\ud800"),
        ("\u2028\x85", r"\u2028\x85"),
    ],
)
def test_nothing_draws_anything_but_itself(text, shown):
    assert printable(text) == shown
    assert printable_lines(f"{text}\nsecond").split("\n")[-2:][1] == "second"
    shown.encode()


def test_what_can_be_encoded_stays_as_it_is():
    assert encodable("caf\udce9 \ud800\n\x1b猫") == "caf\\xe9 \\ud800\n\x1b猫"


@given(names)
@example("a_b")
@example("_a_ __b__ a__b")
@example("<!-- x --> <a href=x> &amp; &#36;")
def test_markdown_shows_the_name(name):
    children = inline_of_cell(markdown(name))
    assert {child.type for child in children} <= {"text", "text_special"}
    assert "".join(child.content for child in children) == f"x{printable(name)}x"
    assert "$" not in markdown(name)


@given(names.filter(lambda name: name.strip() == name and name and "|" not in name))
def test_markdown_code_shows_the_text(text):
    (before, code, after) = READER.parseInline(f"x {markdown_code(text)} y")[0].children
    assert (before.content, code.type, after.content) == ("x ", "code_inline", " y")
    assert code.content == printable(text)


@given(names)
def test_latex_has_no_special_character_left(name):
    text = latex(name)
    known = r"\\text(backslash|asciitilde|asciicircum|bar)\{\}|\$(<|>|\\pm)\$|\\[%_&#{}$]"
    assert not re.search(r"[\\~^|<>%_&#{}$]", re.sub(known, "", text))


def test_latex_by_hand():
    assert latex(r"a_b & 50% \x {~^}") == r"a\_b \& 50\% \textbackslash{}x \{\textasciitilde{}\textasciicircum{}\}"


@pytest.mark.parametrize("name", NAMES)
def test_a_table_shows_its_cells_and_title_as_they_are(name):
    table = Table(title=name)
    table.add_column(name)
    table.add_row(name)
    assert render(table).count(name) == 3
