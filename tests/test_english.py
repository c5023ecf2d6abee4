"""English of docstrings: they begin with a verb or a noun, and avoid the words that CONTRIBUTING.md replaces."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

NOT_FIRST = {"What", "Who", "Whose", "Whoever", "Of", "Whether", "As", "By", "How", "Where"}
AVOIDED = re.compile(
    r"\b(nobody|whoever|anew|(?:go|goes|going|gone|went) on with|is told|are told|so many|beside)\b", re.I
)


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of each docstring."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text is not None:
                yield node.body[0].lineno, text


def unplain(text: str) -> str | None:
    """Return the word that a docstring should not have, None if it has none."""
    first = text.split(maxsplit=1)[0] if text.strip() else ""
    if first in NOT_FIRST:
        return first
    found = AVOIDED.search(text)
    return found and found[0]


def found_in(root: Path, folder: str) -> list[str]:
    """Return ``file:line: word`` for each docstring of a folder that is not plain."""
    return [
        f"{path.relative_to(root)}:{line}: {word!r}"
        for path in sorted((root / folder).rglob("*.py"))
        for line, text in docstrings(path.read_text())
        if (word := unplain(text)) is not None
    ]


@pytest.mark.parametrize("folder", ["platform/promptfleet", "jobs", "benchmarks", "clusters", "docs", "examples"])
def test_docstrings_begin_with_a_verb_or_a_noun_and_use_plain_words(root, folder):
    assert list((root / folder).rglob("*.py"))
    assert found_in(root, folder) == []


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("What a client sends.", "What"),
        ("Of each client its prompt.", "Of"),
        ("Return the state.\n\nNobody else changes it.", "Nobody"),
        ("Start the process anew.", "anew"),
        ("Go on with a run.", "Go on with"),
        ("Return the offset of a row.", None),
        ("Offsets of rows.", None),
    ],
)
def test_words_that_are_not_plain_are_found(text, word):
    assert unplain(text) == word


def test_the_docstrings_of_modules_classes_and_functions_are_found():
    source = '"""One."""\nclass A:\n    """Two."""\n    async def f(self):\n        """Three."""\ndef g():\n    pass'
    assert list(docstrings(source)) == [(1, "One."), (3, "Two."), (5, "Three.")]
