"""A small language for prompts: hard text, learnable vectors and the place of the class, in one line.

    {soft:4} a photo of {class}, {hard: a kind of} {soft:2}

==================  =====================================================================================
``{class}``         name of the class, or each of its words; exactly once
``{soft:4}``        4 learnable vectors, which start at random
``{soft:2 a kind}`` 2 learnable vectors, which start as the embeddings of the two tokens of ``a kind``
``{soft}``          all ``prompt_length`` learnable vectors; then there is no other soft slot
``{soft@x:2}``      2 learnable vectors by the name x; ``{soft@x}`` puts the same vectors in another place
``{hard: words}``   the same as ``words`` without a slot
==================  =====================================================================================

Source: Ding et al., "OpenPrompt: An Open-source Framework for Prompt-learning", arXiv:2111.01998, its mixed template,
whose keys ``meta``, ``soft``, ``duplicate``, ``soft_id`` and ``text`` these slots stand for. Neighbouring hard text and
the class are one text for the tokenizer, as CLIP's tokens do not depend on text further away.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from promptfleet.errors import did_you_mean

CLASS = "{class}"
_SOFT = re.compile(r"soft(?:@(\w+))?\s*(?::\s*(\d+)(?:\s+(.*\S))?)?\s*", re.DOTALL)
_SLOTS = "slots are {class}, {soft}, {soft:4}, {soft:2 two words}, {soft@name:4} and {hard: words}"


@dataclass(frozen=True)
class Soft:
    """Learnable vectors at one place: ``first`` and the following ``count`` of a context (None: all of it)."""

    first: int
    count: int | None
    words: str = ""


@dataclass(frozen=True)
class Template:
    """Pieces before the class, the hard text that holds the class, and pieces after it; a str is hard text."""

    before: tuple[Soft | str, ...]
    text: str
    after: tuple[Soft | str, ...]

    @property
    def vectors(self) -> int | None:
        """Number of learnable vectors; None: as many as a context has."""
        soft = [piece for piece in (*self.before, *self.after) if isinstance(piece, Soft)]
        if any(piece.count is None for piece in soft):
            return None
        return max((piece.first + piece.count for piece in soft), default=0)

    def filled(self, name: str) -> str:
        """Return the hard text with a class's name or word."""
        return self.text.replace(CLASS, name)


def parse_template(text: str) -> Template:
    """Return the template. Raises ValueError with the place of what is wrong, counted in characters from 1."""
    pieces: list[Soft | str] = [""]
    named: dict[str, Soft] = {}
    vectors, found = 0, 0
    for at, slot, literal in _tokens(text):
        if slot is None or slot == "class":
            found += slot == "class"
            if found > 1:
                raise ValueError(f"character {at}: a second {CLASS}; a template has one")
            pieces[-1] += literal
        elif slot.startswith("hard:"):
            pieces[-1] += slot.removeprefix("hard:").strip()
        else:
            soft = _soft(at, slot, vectors, named)
            vectors = max(vectors, soft.first + (soft.count or 0))
            pieces += [soft, ""]
    if not found:
        raise ValueError(f"there is no {CLASS}, the place of the class's name")
    soft = [piece for piece in pieces if isinstance(piece, Soft)]
    if len(soft) > 1 and any(piece.count is None for piece in soft):
        raise ValueError("{soft} takes all vectors of a context; give each soft slot its number, such as {soft:4}")
    pieces = [piece.strip() if isinstance(piece, str) else piece for piece in pieces]
    (place,) = (index for index, piece in enumerate(pieces) if isinstance(piece, str) and CLASS in piece)
    before, after = (tuple(piece for piece in part if piece != "") for part in (pieces[:place], pieces[place + 1 :]))
    return Template(before, pieces[place], after)


def _tokens(text: str) -> Iterator[tuple[int, str | None, str]]:
    """Yield the place of each slot or run of text, a slot's content (None: text), and how it is written."""
    at = 0
    for part in re.split(r"(\{[^{}]*\})", text):
        is_slot = part.startswith("{") and part.endswith("}")
        if not is_slot and (brace := re.search(r"[{}]", part)):
            which = "opened and not closed" if brace[0] == "{" else "closed and not opened"
            raise ValueError(f"character {at + brace.start() + 1}: {brace[0]} is {which}")
        if part:
            yield at + 1, part[1:-1].strip() if is_slot else None, part.replace(" ", "") if is_slot else part
        at += len(part)


def _soft(at: int, slot: str, vectors: int, named: dict[str, Soft]) -> Soft:
    """Return the soft slot, whose own vectors come after the ``vectors`` so far; ``named`` gets a new name."""
    found = _SOFT.fullmatch(slot)
    if not found:
        kind = re.match(r"\w*", slot)[0]
        hint = did_you_mean(kind, ["class", "soft", "hard"]).removesuffix("?")
        if kind in ("soft", "hard"):
            hint = f"a {kind} slot is written in another way"
        raise ValueError(f"character {at}: unknown slot {{{slot}}}; {f'{hint}; ' if hint else ''}{_SLOTS}")
    name, count, words = found[1], found[2] and int(found[2]), found[3] or ""
    if count == 0:
        raise ValueError(f"character {at}: {{{slot}}} has no vector; leave it out")
    if name in named:
        if count not in (None, named[name].count) or words:
            raise ValueError(
                f"character {at}: {{{slot}}} differs from the first {{soft@{name}}}; write {{soft@{name}}}"
            )
        return named[name]
    if name and count is None:
        raise ValueError(f"character {at}: {{{slot}}} is the first of its name; give its number: {{soft@{name}:4}}")
    soft = Soft(vectors, count, words)
    if name:
        named[name] = soft
    return soft
