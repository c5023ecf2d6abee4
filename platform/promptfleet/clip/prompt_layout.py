"""What stands where in a prompt: learnable context, class name, full stop and end of text."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from promptfleet.clip.text_tower import TextTower

Position = Literal["end", "middle", "front"]


@dataclass(frozen=True)
class ClassTokens:
    """Embedded tokens of the classes' texts ``"name."``.

    ``start [width]`` is SOS; ``suffix [classes, tokens, width]`` are class name, full stop and EOT, then padding;
    ``lengths [classes]`` counts the tokens up to and including EOT.
    """

    start: Tensor
    suffix: Tensor
    lengths: Tensor

    def __len__(self) -> int:
        return self.suffix.shape[0]

    def to(self, device: torch.device | str) -> "ClassTokens":
        return ClassTokens(self.start.to(device), self.suffix.to(device), self.lengths.to(device))


@dataclass(frozen=True)
class Prompts:
    """Embedded prompts, cut where the classes begin to differ.

    ``shared [prompts, tokens, width]`` starts every class's row; ``own [prompts, classes, tokens, width]`` goes on with
    what is a class's own, padded; ``lengths [classes]`` counts the own tokens up to and including EOT.
    """

    shared: Tensor
    own: Tensor
    lengths: Tensor


def lay_out(tower: TextTower, classes: ClassTokens, contexts: Tensor, position: Position) -> Prompts:
    """Put contexts and class names in their places and add the positional embedding.

    contexts ``[prompts, tokens, width]`` or, class by class, ``[prompts, classes, tokens, width]``. The class name
    stands at the ``end`` of the context, in its ``middle`` (after ``tokens // 2`` of them) or in ``front`` of it; full
    stop and EOT come last. Source: CoOp (arXiv:2109.01134). Raises ValueError where a prompt exceeds the tower.
    """
    tokens = contexts.shape[-2]
    room = tower.positions - 1 - classes.suffix.shape[1]
    if tokens > room:
        raise ValueError(f"a context of {tokens} tokens is too long: the tower leaves room for {room}")
    before = {"end": tokens, "middle": tokens // 2, "front": 0}[position]
    head, tail = contexts.split([before, tokens - before], dim=-2)
    prompts = contexts.shape[0]
    shared = classes.start.expand(prompts, 1, -1)
    own = classes.suffix.expand(prompts, -1, -1, -1)
    lengths = classes.lengths
    if tail.shape[-2]:
        own = _insert_after_name(own, lengths, _by_class(tail, len(classes)))
        lengths = lengths + tail.shape[-2]
    if contexts.dim() == 4:
        own = torch.cat([head, own], dim=2)
        lengths = lengths + before
    else:
        shared = torch.cat([shared, head], dim=1)
    at, cut = tower.weights["positional_embedding"], shared.shape[1]
    return Prompts(shared + at[:cut], own + at[cut : cut + own.shape[2]], lengths)


def _by_class(context: Tensor, classes: int) -> Tensor:
    return context if context.dim() == 4 else context.unsqueeze(1).expand(-1, classes, -1, -1)


def _insert_after_name(suffix: Tensor, lengths: Tensor, context: Tensor) -> Tensor:
    """``[name][.][EOT][padding]`` and ``[context]``, class by class, to ``[name][context][.][EOT][padding]``."""
    own, inserted = suffix.shape[2], context.shape[2]
    place = torch.arange(own + inserted, device=suffix.device)
    name = (lengths - 2).unsqueeze(1)  # the full stop and EOT come after it
    source = torch.where(
        place < name, place, torch.where(place < name + inserted, own + place - name, place - inserted)
    )
    index = source[None, :, :, None].expand(suffix.shape[0], -1, -1, suffix.shape[-1])
    return torch.cat([suffix, context], dim=2).gather(2, index)
