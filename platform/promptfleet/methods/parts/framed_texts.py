"""Classes of a world as a template has them: their words, and the template's tokens around these."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain

import torch
from torch import Tensor

from promptfleet.clip.prompt_frame import Frame
from promptfleet.clip.prompt_layout import ClassTokens
from promptfleet.clip.tokens import class_texts
from promptfleet.errors import ConfigError
from promptfleet.methods.parts.template import CLASS, Soft, Template
from promptfleet.methods.protocol import World

_WORDS, _PIECE = "words", "piece"
_PLAIN = f"{CLASS}."  # the text of a class without any template


def template_texts(
    template: Template, class_names: Sequence[str], words: Sequence[Sequence[str]] | None
) -> dict[str, list[str]]:
    """Return the lists of texts that ``in_template`` needs in ``World.texts``, see ``Method.texts``.

    words: those of each class; None: the class's name.
    """
    pieces = {name: [text] for name, text in _pieces(template)}
    if words is None and template.text == _PLAIN:
        return pieces
    by_class = words or [[name] for name in class_texts(class_names, "{}")]
    return {_WORDS: [template.filled(word) for of_class in by_class for word in of_class], **pieces}


def in_template(world: World, template: Template, words: Sequence[Sequence[str]] | None) -> World:
    """Return the world whose ``clip.classes`` are words in the template, class by class.

    Raises ConfigError: a soft slot has another number of vectors than its words have tokens.
    """
    classes, counts = world.texts.get(_WORDS, world.clip.classes), [len(of_class) for of_class in words or ()]
    clip, text_classes = world.clip, None
    if max(counts, default=1) > 1:
        text_classes = torch.repeat_interleave(torch.tensor(counts)).to(world.device)
        clip = replace(clip, zero_shot_text=clip.zero_shot_text[text_classes])
    framed = _framed(world, template, classes)
    return replace(world, clip=replace(clip, classes=framed), text_classes=text_classes)


def _framed(world: World, template: Template, classes: ClassTokens) -> ClassTokens:
    """Return the classes in the template's frame; as they are where that is a context before the text alone.

    Hard tokens that all texts begin with become tokens of the frame: the encoder then has them once for all.
    """
    same = 0 if template.text.startswith(CLASS) else _common_tokens(classes)
    tokens = [list(_tokens_of(world, *named)) for named in _named(template)]
    before = [*chain(*tokens[: len(template.before)]), *((None, token) for token in classes.suffix[0, :same])]
    after = list(chain(*tokens[len(template.before) :]))
    vectors, nothing = world.config.prompt_length, torch.zeros_like(classes.start)
    if not after and before == [(vector, None) for vector in range(vectors)]:
        return classes
    sources = [vectors if vector is None else vector for vector, _ in before + after]
    base = [nothing if token is None else token for _, token in before + after]
    frame = Frame(
        before=len(before),
        vectors=vectors,
        sources=torch.tensor(sources, dtype=torch.int64, device=classes.start.device),
        base=torch.stack(base) if base else classes.start.new_zeros(0, len(nothing)),
    )
    return ClassTokens(classes.start, classes.suffix[:, same:], classes.lengths - same, frame)


def _common_tokens(classes: ClassTokens) -> int:
    """Return the number of tokens that all texts begin with; each keeps at least its EOT."""
    most = int(classes.lengths.min()) - 1
    equal = (classes.suffix[:, :most] == classes.suffix[:1, :most]).all(dim=-1).all(dim=0)
    return int(equal.long().cumprod(dim=0).sum())


def _tokens_of(world: World, name: str, piece: Soft | str) -> Iterator[tuple[int | None, Tensor | None]]:
    """Yield each token of a piece: the vector of the context at its place, and the embedding that it is added to."""
    text = world.texts.get(name)
    embedded = [] if text is None else list(text.suffix[0, : int(text.lengths[0]) - 1])  # without EOT
    if isinstance(piece, str):
        yield from ((None, token) for token in embedded)
        return
    count = world.config.prompt_length if piece.count is None else piece.count
    if embedded and len(embedded) != count:
        raise ConfigError(
            f"template: {piece.words!r} has {len(embedded)} tokens, and its soft slot {count} vectors; write "
            f"{{soft:{len(embedded)} {piece.words}}}"
        )
    yield from ((piece.first + place, start) for place, start in enumerate(embedded or [None] * count))


def _named(template: Template) -> Iterator[tuple[str, Soft | str]]:
    """Yield a name for each piece around the class."""
    return ((f"{_PIECE}.{place}", piece) for place, piece in enumerate((*template.before, *template.after)))


def _pieces(template: Template) -> Iterator[tuple[str, str]]:
    """Yield name and text of the pieces that have one."""
    for name, piece in _named(template):
        if text := piece.words if isinstance(piece, Soft) else piece:
            yield name, text
