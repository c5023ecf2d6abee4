"""Text from outside, such as names of classes and files, in output that gives some characters a meaning."""

import re

_RAW_BYTES = range(0xDC80, 0xDD00)  # ``os.fsdecode`` maps bytes that are no UTF-8 to these


def printable(text: str) -> str:
    r"""Return ``text`` for a terminal, a log or an error: on one line, and drawing nothing but itself.

    Terminal escapes, line breaks, marks that turn the direction of writing and bytes that are no UTF-8 become escapes
    such as ``\x1b``.
    """
    return text if text.isprintable() else "".join(map(_escaped, text))


def printable_lines(text: str) -> str:
    """Return several lines, each of them as from ``printable``."""
    return "\n".join(map(printable, text.split("\n")))


def encodable(text: str) -> str:
    """Return ``text`` with bytes of a name that are no UTF-8 escaped, which no encoding takes. All else stays."""
    return "".join(_escaped(char) if "\ud800" <= char <= "\udfff" else char for char in text)


def markdown(text: str) -> str:
    """Return ``text`` for a line or a table's cell of Markdown: no emphasis, link, formula, HTML or further cell."""
    return _MARKDOWN.sub(lambda found: _ENTITIES.get(found[0], f"\\{found[0]}"), printable(text))


def markdown_code(text: str) -> str:
    """Return ``text`` as a span of code in Markdown."""
    text = printable(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{text}{fence}" if len(fence) == 1 else f"{fence} {text} {fence}"


def latex(text: str) -> str:
    """Return ``text`` for LaTeX outside of formulas."""
    return "".join(_LATEX.get(char, char) for char in printable(text))


# An underscore inside a word is no emphasis; "<" begins HTML only before a letter and the like. Entities are for those
# that not every reader of Markdown takes after a backslash.
_MARKDOWN = re.compile(r"[\\`*|\[\]~$&]|(?<![^\W_])_|_(?![^\W_])|<(?=[A-Za-z/!?])")
_ENTITIES = {"<": "&lt;", "&": "&amp;", "$": "&#36;"}
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "|": r"\textbar{}",
    "<": "$<$",
    ">": "$>$",
    "±": r"$\pm$",
    "≈": r"$\approx$",
    **{char: f"\\{char}" for char in "%_&#{}$"},
}


def _escaped(char: str) -> str:
    if char.isprintable():
        return char
    return f"\\x{ord(char) - 0xDC00:02x}" if ord(char) in _RAW_BYTES else repr(char)[1:-1]
