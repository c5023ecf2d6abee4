"""Layout of a prompt: the places of learnable context, class name, full stop and end of text."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from promptfleet.clip.prompt_frame import Frame
from promptfleet.clip.text_tower import TextTower

Position = Literal["end", "middle", "front"]


@dataclass(frozen=True, eq=False)
class ClassTokens:
    """Embedded tokens of the classes' texts ``"name."``.

    ``start [width]`` is SOS; ``suffix [classes, tokens, width]`` are class name, full stop and EOT, then padding;
    ``lengths [classes]`` counts the tokens up to and including EOT. With a ``frame`` a context's vectors take their
    places in a template around the texts.
    """

    start: Tensor
    suffix: Tensor
    lengths: Tensor
    frame: Frame | None = None
    _layouts: dict[tuple, "Layout"] = field(default_factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return self.suffix.shape[0]

    def to(self, device: torch.device | str) -> "ClassTokens":
        frame = self.frame and self.frame.to(device)
        return ClassTokens(self.start.to(device), self.suffix.to(device), self.lengths.to(device), frame)

    @torch.inference_mode(False)  # training may later use tensors that are made for a prediction
    def layout(self, tokens: int, position: Position, *, by_class: bool) -> "Layout":
        """Return the layout of contexts of ``tokens`` vectors; made once, since that reads from the device."""
        key = tokens, position, by_class
        if key not in self._layouts:
            before, last = {"end": tokens, "middle": tokens // 2, "front": 0}[position], 2  # full stop and EOT
            if self.frame:
                before, last = self.frame.before, 1
            layout = Layout.of(self.lengths.cpu(), self.suffix.shape[1], before, tokens - before, last, by_class)
            self._layouts[key] = layout.to(self.suffix.device)
        return self._layouts[key]


@dataclass(frozen=True)
class Packing:
    """Place of each token in ``[shared tokens][class 0's own][class 1's own]...``, which has no padding.

    ``real`` finds the own tokens in the flattened padded grid ``[classes * tokens]``; ``grid`` finds the grid's places
    in the packed row (padding finds its class's EOT, and nothing real looks at it), and ``padding`` says which of them
    are none. ``ends [classes]`` finds EOT in the packed row and ``last`` among its class's own tokens. ``causal`` is
    ``[tokens, tokens]``: 0 where an own token may look at another of its class and -inf elsewhere; ``shared_causal`` is
    the same for shared tokens.
    """

    shared: int
    classes: int
    real: Tensor
    grid: Tensor
    padding: Tensor
    ends: Tensor
    last: Tensor
    causal: Tensor
    shared_causal: Tensor

    @classmethod
    def of(cls, shared: int, tokens: int, lengths: Tensor) -> "Packing":
        """Pack ``shared`` tokens and, of each class's ``tokens``, the first ``lengths [classes]``."""
        starts = shared + torch.cumsum(lengths, 0) - lengths
        place = torch.arange(tokens)
        padding = (place >= lengths.unsqueeze(1)).flatten()
        real = (~padding).nonzero().squeeze(1)
        last = lengths - 1
        grid = starts.unsqueeze(1) + torch.minimum(place, last.unsqueeze(1))
        masks = (torch.full((size, size), float("-inf")).triu(1) for size in (tokens, shared))
        return cls(shared, len(lengths), real, grid.flatten(), padding, starts + last, last, *masks)

    def to(self, device: torch.device | str) -> "Packing":
        tensors = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors)

    def pack(self, grid: Tensor) -> Tensor:
        """Return real tokens of ``grid``: ``[prompts, classes * tokens, width] -> [prompts, real tokens, width]``."""
        return _Pack.apply(grid, self)

    def unpack(self, packed: Tensor) -> Tensor:
        """Return ``packed`` as a padded grid, where padding gives no gradient.

        ``[prompts, packed tokens, width] -> [prompts, classes * tokens, width]``
        """
        return _Unpack.apply(packed, self)


class _Pack(torch.autograd.Function):
    """``Packing.pack`` with a gradient that is looked up; a GPU would have to sort to add it up with the same bits."""

    @staticmethod
    def forward(ctx: Any, grid: Tensor, packing: Packing) -> Tensor:
        ctx.packing = packing
        return grid.index_select(1, packing.real)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        packing = ctx.packing
        spread = gradient.index_select(1, packing.grid - packing.shared)
        return spread.masked_fill_(packing.padding.unsqueeze(1), 0.0), None


class _Unpack(torch.autograd.Function):
    """``Packing.unpack`` with a gradient that is looked up; padding is masked, since its gradient would be zero."""

    @staticmethod
    def forward(ctx: Any, packed: Tensor, packing: Packing) -> Tensor:
        ctx.packing = packing
        return packed.index_select(1, packing.grid)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        shared = gradient.new_zeros(len(gradient), ctx.packing.shared, gradient.shape[2])
        return torch.cat([shared, gradient.index_select(1, ctx.packing.real)], dim=1), None


@dataclass(frozen=True)
class Layout:
    """Places of all tokens, the same for every context of one size.

    ``before`` of the context's tokens come before the class's text. ``source [classes, tokens]`` finds the own tokens
    in ``[text][padding][rest of the context]``; it is None if no part of the context comes after the text.
    """

    before: int
    source: Tensor | None
    packing: Packing

    @classmethod
    def of(cls, lengths: Tensor, own: int, before: int, inserted: int, last: int, by_class: bool) -> "Layout":
        """Lay out class texts of ``own`` tokens, ``lengths [classes]`` of them real, among those of a context.

        ``before`` of the context's tokens come before the text, and ``inserted`` before its ``last`` tokens.
        """
        source = None
        if inserted:
            source = _with_context_in(lengths, own, inserted, last)
            own, lengths = own + inserted, lengths + inserted
        if by_class:
            return cls(before, source, Packing.of(1, own + before, lengths + before))
        return cls(before, source, Packing.of(1 + before, own, lengths))

    def to(self, device: torch.device | str) -> "Layout":
        source = None if self.source is None else self.source.to(device)
        return Layout(self.before, source, self.packing.to(device))


@dataclass(frozen=True)
class Prompts:
    """Embedded prompts, cut where the classes begin to differ.

    ``shared [prompts, tokens, width]`` starts every class's row; ``own [prompts, classes, tokens, width]`` continues
    with a class's own tokens, padded. ``hidden [prompts, 1, 1, shared tokens]`` is -inf where a shared token is padding
    and 0 elsewhere, or None without padding among them.
    """

    shared: Tensor
    own: Tensor
    packing: Packing
    hidden: Tensor | None = None


def lay_out(
    tower: TextTower, classes: ClassTokens, contexts: Tensor, position: Position, lengths: Tensor | None = None
) -> Prompts:
    """Put contexts and class names in their places and add the positional embedding.

    contexts ``[prompts, tokens, width]`` or, class by class, ``[prompts, classes, tokens, width]``. The class name is
    at the ``end`` of the context, in its ``middle`` (after ``tokens // 2`` vectors) or in ``front`` of it; full stop
    and EOT come last. Source: CoOp (arXiv:2109.01134). If the classes have a frame, that has all places instead.
    With ``lengths [prompts]`` only these first vectors of each context count, and the rest is padding: for contexts of
    all classes, with the class name at the end. Raises ValueError if a prompt exceeds the tower.
    """
    if classes.frame:
        contexts = classes.frame.around(contexts)
    tokens, by_class = contexts.shape[-2], contexts.dim() == 4
    room = tower.positions - 1 - classes.suffix.shape[1]
    if tokens > room:
        raise ValueError(f"a context of {tokens} tokens is too long: the tower leaves room for {room}")
    layout = classes.layout(tokens, position, by_class=by_class)
    head, tail = contexts.split([layout.before, tokens - layout.before], dim=-2)
    prompts = contexts.shape[0]
    shared = classes.start.expand(prompts, 1, -1)
    own = classes.suffix.expand(prompts, -1, -1, -1)
    if layout.source is not None:
        rest = tail if by_class else tail.unsqueeze(1).expand(-1, len(classes), -1, -1)
        index = layout.source[None, :, :, None].expand(prompts, -1, -1, own.shape[-1])
        own = torch.cat([own, rest], dim=2).gather(2, index)
    if by_class:
        own = torch.cat([head, own], dim=2)
    else:
        shared = torch.cat([shared, head], dim=1)
    at, cut = tower.weights["positional_embedding"], shared.shape[1]
    if lengths is None:
        return Prompts(shared + at[:cut], own + at[cut : cut + own.shape[2]], layout.packing)
    begin = 1 + lengths.unsqueeze(1)  # place of a class's first own token
    places = torch.arange(cut + own.shape[2], device=shared.device)
    hidden = torch.zeros_like(shared[..., 0]).masked_fill(places[:cut] >= begin, float("-inf"))
    own = own + at[begin + places[: own.shape[2]]].unsqueeze(1)
    return Prompts(shared + at[:cut], own, layout.packing, hidden[:, None, None])


def _with_context_in(lengths: Tensor, own: int, inserted: int, last: int) -> Tensor:
    """Find ``[text][context][its last tokens][padding]`` in ``[text][padding][context]``: ``[classes, tokens]``."""
    place = torch.arange(own + inserted)
    cut = (lengths - last).unsqueeze(1)
    return torch.where(place < cut, place, torch.where(place < cut + inserted, own + place - cut, place - inserted))
