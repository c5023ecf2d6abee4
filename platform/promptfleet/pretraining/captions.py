"""Captions for rendered glyphs: varied wording around one class word, some of it naming a style.

A caption belongs to one or more classes ("letter q" is both q and Q) and may name one style; an image matches it if its
class is among them and the style is true of it. Everything else in a caption (filler, punctuation, word order) is drawn
independently of the image, so the text tower learns to find the class word at any of the first thirty-odd positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from promptfleet.pretraining.bank import DIGIT_NAMES, GLYPHS
from promptfleet.pretraining.glyphs import STYLES
from promptfleet.pretraining.strokes import DIGITS, SHAPES

PLACEHOLDER = "x"  # one token; CoOp's "X X X X seven." is written with the same one
FILLERS = ((2, 0.35), (6, 0.35), (12, 0.15), (22, 0.15))  # most filler words in a step, share of the steps

STYLE_WORDS = {
    "handwritten": ("handwritten", "handwritten", "scribbled", "sketched"),
    "printed": ("printed", "typed"),
    "bold": ("bold", "thick", "heavy"),
    "thin": ("thin", "fine"),
    "slanted": ("slanted", "italic"),
    "inverted": ("inverted", "dark", "black"),
    "noisy": ("noisy", "grainy"),
}
OPENINGS = ("", "", "a photo of", "an image of", "a picture of", "this is", "here is", "it shows", "i see", "look at")
_FILLER_TEXT = (
    "photo image picture scan drawing note page paper screen sheet line row box field form of the a an on in with and "
    "from for at by is it this that can see some very old new small large white grey plain clear centered single "
    "little good bad quick simple written drawn shown found made left right top middle label sign sample example type "
    "kind style hand pen ink pencil marker centre character low resolution blurry"
)
FILLER = tuple(_FILLER_TEXT.split())


@dataclass(frozen=True)
class Caption:
    """Caption with its classes and style.

    text: the tokenizer's input. classes: indices into ``GLYPHS``. style: a key of ``STYLE_WORDS``, or None. blanks: the
    text starts with this many ``PLACEHOLDER`` tokens, whose embeddings the training step replaces by random vectors, so
    that the text tower gets used to learned contexts of any length.
    """

    text: str
    classes: tuple[int, ...]
    style: str | None = None
    blanks: int = 0


def caption_batch(rng: np.random.Generator, *, plain: bool = False) -> list[Caption]:
    """Draw captions for one training step: four per digit, two per pair of letters, one per shape.

    Every class has at least one without a style. ``plain``: little but class words, for the first steps of a run.
    """
    sizes, shares = zip(*FILLERS, strict=True)
    filler = 0 if plain else int(rng.choice(sizes, p=shares))
    captions = []
    for index, glyph in enumerate(GLYPHS):
        if glyph in DIGITS:
            captions += [digit_caption(index, rng, filler, styled=number > 1 and not plain) for number in range(4)]
        elif glyph in SHAPES:
            captions.append(_compose(glyph, (glyph, f"{glyph} shape"), (index,), rng, filler, styled=False))
        elif glyph.islower():
            captions += [letter_caption(glyph, rng, filler, styled=number > 0 and not plain) for number in range(2)]
    return captions


def digit_caption(index: int, rng: np.random.Generator, filler: int, *, styled: bool) -> Caption:
    """Draw one caption of digit ``index``, by its word or by its numeral, after at most ``filler`` filler words."""
    word = DIGIT_NAMES[index] if rng.random() < 0.7 else str(index)
    nouns = (word, f"digit {word}", f"digit {word}", f"number {word}", f"numeral {word}", f"figure {word}")
    return _compose(word, nouns, (index,), rng, filler, styled=styled)


def letter_caption(letter: str, rng: np.random.Generator, filler: int, *, styled: bool) -> Caption:
    """Draw one caption of a letter; a styled one may name the case instead, the others are true of both."""
    both = (GLYPHS.index(letter), GLYPHS.index(letter.upper()))
    nouns = (f"letter {letter}", f"letter {letter}", f"character {letter}")
    if not styled or rng.random() < 0.5:
        return _compose(letter, nouns, both, rng, filler, styled=styled)
    case = int(rng.integers(2))
    name = ("lowercase", "capital")[case]
    return _compose(letter, (f"{name} letter {letter}", f"{name} {letter}"), (both[case],), rng, filler, styled=False)


def _compose(
    word: str, nouns: Sequence[str], classes: tuple[int, ...], rng: np.random.Generator, filler: int, *, styled: bool
) -> Caption:
    """Put filler, article, style and one of ``nouns`` together."""
    stop = "." if rng.random() < 0.7 else ""
    if filler and not styled and rng.random() < 0.3:  # as in a learned prompt: context, class word, full stop
        blanks = int(rng.integers(1, filler + 1))
        return Caption(" ".join([PLACEHOLDER] * blanks + [word]) + stop, classes, blanks=blanks)
    noun, style = str(rng.choice(nouns)), None
    if not filler:
        return Caption(noun + stop, classes)
    opening = str(rng.choice(OPENINGS))
    if rng.random() < 0.4:
        opening = " ".join(rng.choice(FILLER, rng.integers(1, filler + 1)))
    article = str(rng.choice(["a", "a", "the", ""]))
    parts = [opening, article, noun]
    if styled:
        style = "handwritten" if rng.random() < 0.4 else str(rng.choice(STYLES))
        adjective = str(rng.choice(STYLE_WORDS[style]))
        parts = [opening, article, adjective, noun] if rng.random() < 0.75 else [opening, article, noun, ",", adjective]
    return Caption(" ".join(part for part in parts if part) + stop, classes, style)


def matches(captions: Sequence[Caption], label: torch.Tensor, styles: torch.Tensor) -> torch.Tensor:
    """Return which captions are true of which images: ``[images, captions]`` bool.

    label ``[images]`` and styles ``[images, len(STYLES)]`` are those of ``glyphs.Rendered``.
    """
    of_class = torch.zeros(len(captions), len(GLYPHS), dtype=torch.bool)
    for row, caption in enumerate(captions):
        of_class[row, list(caption.classes)] = True
    column = torch.tensor([STYLES.index(caption.style) if caption.style else len(STYLES) for caption in captions])
    true_style = torch.cat([styles, torch.ones(len(styles), 1, dtype=torch.bool)], dim=1)[:, column]
    return of_class[:, label].T & true_style


def vocabulary() -> list[str]:
    """Return every word a caption can contain, with the placeholder and punctuation."""
    words = {PLACEHOLDER, ".", ",", "a", "the", "shape", "digit", "number", "numeral", "figure", "letter", "character"}
    words |= {"lowercase", "capital", *FILLER, *DIGIT_NAMES, *(glyph.lower() for glyph in GLYPHS)}
    words |= {word for opening in OPENINGS for word in opening.split()}
    return sorted(words | {word for group in STYLE_WORDS.values() for word in group})
