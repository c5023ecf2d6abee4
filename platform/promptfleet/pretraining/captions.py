"""Captions for rendered glyphs: varied wording around one class word and up to three styles.

A caption belongs to one or more classes ("letter q" is both q and Q) and may name styles; an image matches it if its
class is among them and all the styles are true of it. Styles are named as an image of the batch has them. Many captions
have a counterpart that differs in one style word, so the text tower has to read the words in front of the class.
Everything else in a caption (filler, punctuation, word order) is drawn independently of the images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from promptfleet.pretraining.bank import DIGIT_NAMES, GLYPHS
from promptfleet.pretraining.glyphs import STYLES
from promptfleet.pretraining.strokes import DIGITS, SHAPES

FILLERS = ((0, 0.3), (3, 0.35), (8, 0.2), (22, 0.15))  # most filler words in a step, share of the steps
STYLE_COUNTS = ((1, 0.4), (2, 0.35), (3, 0.25))  # styles that a styled caption names, share of these captions
PAIRS_PER_DIGIT, PLAIN_PER_DIGIT = 3, 2  # captions with their counterparts, and captions without a style

STYLE_WORDS = {
    "handwritten": ("handwritten", "handwritten", "scribbled", "sketched", "penned"),
    "printed": ("printed", "typed"),
    "bold": ("bold", "thick", "heavy"),
    "medium": ("medium", "regular"),
    "thin": ("thin", "fine"),
    "slanted": ("slanted", "italic", "leaning"),
    "upright": ("upright", "straight"),
    "rotated": ("rotated", "tilted", "turned"),
    "inverted": ("inverted", "dark", "black"),
    "bright": ("bright", "white"),
    "faint": ("faint", "pale", "dim"),
    "noisy": ("noisy", "grainy", "dirty"),
    "clean": ("clean", "smooth"),
    "blurred": ("blurred", "blurry", "soft"),
    "pixelated": ("pixelated", "blocky", "coarse"),
    "sharp": ("sharp", "crisp"),
    "small": ("small", "tiny", "little"),
    "large": ("large", "big"),
    "left": ("left",),
    "right": ("right",),
    "high": ("high", "raised"),
    "low": ("low", "lowered"),
    "narrow": ("narrow", "slim"),
    "wide": ("wide", "broad"),
    "striped": ("striped", "lined"),
    "shaded": ("shaded",),
    "red": ("red",),
    "green": ("green",),
    "blue": ("blue",),
    "yellow": ("yellow",),
    "grey": ("grey", "gray"),
}
CONTRASTS = (  # styles of which a counterpart names another one
    ("handwritten", "printed"),
    ("bold", "medium", "thin"),
    ("slanted", "upright", "rotated"),
    ("inverted", "bright"),
    ("noisy", "clean", "faint"),
    ("blurred", "pixelated", "sharp"),
    ("small", "large"),
    ("left", "right", "high", "low"),
    ("narrow", "wide"),
    ("striped", "shaded"),
    ("red", "green", "blue", "yellow", "grey"),
)
OPENINGS = ("", "", "a photo of", "an image of", "a picture of", "this is", "here is", "it shows", "i see", "look at")
FORMS = (  # word order, share of the styled captions; {} are the styles
    ("{opening} {article} {{}} {noun}", 0.5),
    ("{{}} {noun}", 0.2),
    ("{{}} {opening} {article} {noun}", 0.15),
    ("{opening} {article} {noun} , {{}}", 0.15),
)
JOINS = (" ", " ", " and ", " , ")  # between the styles of a caption
_FILLER_TEXT = (
    "photo image picture scan drawing note page paper screen sheet row box field form of the a an on in with and "
    "from for at by is it this that can see some very old new single good bad quick simple written drawn shown found "
    "made sign sample example type kind pen ink pencil marker character"
)
FILLER = tuple(_FILLER_TEXT.split())


@dataclass(frozen=True)
class Caption:
    """Caption with its classes, indices into ``GLYPHS``, and its styles, keys of ``STYLE_WORDS``."""

    text: str
    classes: tuple[int, ...]
    styles: tuple[str, ...] = ()


def caption_batch(
    rng: np.random.Generator, label: np.ndarray, styles: np.ndarray, *, plain: bool = False
) -> list[Caption]:
    """Draw captions for one training step on images of classes ``label [images]`` and ``styles [images, len(STYLES)]``.

    Eight per digit, two per pair of letters, one per shape; every class has at least one without a style. ``plain``:
    the same classes by little but their words, for the first steps of a run.
    """
    sizes, shares = zip(*FILLERS, strict=True)
    filler = 0 if plain else int(rng.choice(sizes, p=shares))
    captions = []
    for index, glyph in enumerate(GLYPHS):
        if glyph in DIGITS:
            of_class = styles[label == index]
            captions += [_unstyled(_digit_nouns(index, rng), (index,), rng, filler) for _ in range(PLAIN_PER_DIGIT)]
            if not plain:
                for _ in range(PAIRS_PER_DIGIT):
                    captions += _styled_pair(_digit_nouns(index, rng), (index,), of_class, rng, filler)
        elif glyph in SHAPES:
            captions.append(_unstyled((glyph, f"{glyph} shape"), (index,), rng, filler))
        elif glyph.islower():
            captions += _letter_captions(glyph, label, styles, rng, filler, plain=plain)
    return captions


def matches(captions: Sequence[Caption], label: torch.Tensor, styles: torch.Tensor) -> torch.Tensor:
    """Return which captions are true of which images: ``[images, captions]`` bool.

    label ``[images]`` and styles ``[images, len(STYLES)]`` are those of ``glyphs.Rendered``.
    """
    of_class = torch.zeros(len(captions), len(GLYPHS), dtype=torch.bool)
    named = torch.zeros(len(captions), len(STYLES))
    for row, caption in enumerate(captions):
        of_class[row, list(caption.classes)] = True
        named[row, [STYLES.index(style) for style in caption.styles]] = 1
    of_class, named = of_class.to(label.device), named.to(label.device)
    return of_class[:, label].T & ((~styles).float() @ named.T == 0)


def vocabulary() -> list[str]:
    """Return every word a caption can contain, with punctuation."""
    words = {".", ",", "a", "and", "the", "shape", "digit", "number", "numeral", "figure", "letter", "character"}
    words |= {"lowercase", "capital", *FILLER, *DIGIT_NAMES, *(glyph.lower() for glyph in GLYPHS)}
    words |= {word for opening in OPENINGS for word in opening.split()}
    return sorted(words | {word for group in STYLE_WORDS.values() for word in group})


def _digit_nouns(index: int, rng: np.random.Generator) -> tuple[str, ...]:
    """Return names of digit ``index``, by its word or by its numeral."""
    word = DIGIT_NAMES[index] if rng.random() < 0.7 else str(index)
    return word, word, f"digit {word}", f"digit {word}", f"number {word}", f"numeral {word}", f"figure {word}"


def _letter_captions(
    letter: str, label: np.ndarray, styles: np.ndarray, rng: np.random.Generator, filler: int, *, plain: bool
) -> list[Caption]:
    """Draw one caption of both cases, and one that names a case, or styles, or neither."""
    both = (GLYPHS.index(letter), GLYPHS.index(letter.upper()))
    nouns = (f"letter {letter}", f"letter {letter}", f"character {letter}")
    first = _unstyled(nouns, both, rng, filler)
    if plain:
        return [first, _unstyled(nouns, both, rng, filler)]
    if rng.random() < 0.5:
        return [first, _styled_pair(nouns, both, styles[np.isin(label, both)], rng, filler)[0]]
    case = int(rng.integers(2))
    name = ("lowercase", "capital")[case]
    return [first, _unstyled((f"{name} letter {letter}", f"{name} {letter}"), (both[case],), rng, filler)]


def _unstyled(nouns: Sequence[str], classes: tuple[int, ...], rng: np.random.Generator, filler: int) -> Caption:
    """Draw a caption of one of ``nouns`` after at most ``filler`` words of filler."""
    form = "{opening} {article} {noun}" if rng.random() < 0.7 else "{noun}"
    return Caption(_wording(form, nouns, rng, filler), classes)


def _styled_pair(
    nouns: Sequence[str], classes: tuple[int, ...], of_class: np.ndarray, rng: np.random.Generator, filler: int
) -> list[Caption]:
    """Draw a caption in the styles of an image of ``of_class [images, len(STYLES)]``, and its counterpart.

    The counterpart has the same words but one style, which it exchanges for one that is false of that image.
    """
    true = of_class[rng.integers(len(of_class))] if len(of_class) else rng.random(len(STYLES)) < 0.4
    named = _choose_styles(true, of_class, rng)
    other = list(named)
    place = int(rng.integers(len(named)))
    other[place] = _false_style(named[place], true, rng)
    forms, shares = zip(*FORMS, strict=True)
    wording = _wording(str(rng.choice(forms, p=shares)), nouns, rng, filler)
    words = {style: str(rng.choice(STYLE_WORDS[style])) for style in dict.fromkeys([*named, *other])}
    join = str(rng.choice(JOINS))
    return [
        Caption(wording.format(join.join(words[style] for style in chosen)), classes, tuple(chosen))
        for chosen in (named, other)
    ]


def _choose_styles(true: np.ndarray, of_class: np.ndarray, rng: np.random.Generator) -> list[str]:
    """Draw one to three of the styles that are ``true [len(STYLES)]`` of an image; rare ones more often."""
    counts, shares = zip(*STYLE_COUNTS, strict=True)
    weight = true / (0.1 + (of_class.mean(0) if len(of_class) else 0))
    chosen = rng.choice(
        len(STYLES), min(int(rng.choice(counts, p=shares)), int(true.sum())), False, weight / weight.sum()
    )
    return [STYLES[column] for column in chosen]


def _false_style(style: str, true: np.ndarray, rng: np.random.Generator) -> str:
    """Draw a style that is not ``true [len(STYLES)]``: one that contrasts with ``style``, if there is one."""
    false = [name for name, holds in zip(STYLES, true, strict=True) if not holds]
    contrasting = [name for group in CONTRASTS if style in group for name in group if name in false]
    return str(rng.choice(contrasting or false))


def _wording(form: str, nouns: Sequence[str], rng: np.random.Generator, filler: int) -> str:
    """Fill opening, article and noun into ``form``; ``{{}}`` becomes ``{}``."""
    opening = str(rng.choice(OPENINGS)) if filler else ""
    if filler and rng.random() < 0.4:
        opening = " ".join(rng.choice(FILLER, rng.integers(1, filler + 1)))
    article = str(rng.choice(["a", "a", "the", ""])) if filler else ""
    text = form.format(opening=opening, article=article, noun=str(rng.choice(nouns)))
    return " ".join(text.split()) + ("." if rng.random() < 0.7 else "")
