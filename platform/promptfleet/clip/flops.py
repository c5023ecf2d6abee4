"""Floating-point operations of the text encoders, counted on paper: two for each multiplication and addition.

Counted are matrix products, as ``torch.utils.flop_counter`` counts them. What is left out (norms, softmax, activations)
moves bytes and takes next to no operations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from promptfleet.clip.text_tower import TextTower

_MLP = 4  # width of the MLP's hidden layer, in widths of a token


class TowerSize(NamedTuple):
    """Layers of a text tower, width of a token and width of the joint embedding."""

    layers: int
    width: int
    dim: int

    @classmethod
    def of(cls, tower: TextTower) -> "TowerSize":
        return cls(tower.layers, tower.width, tower.dim)


TOWERS = {"RN50": TowerSize(12, 512, 1024), "ViT-B-16": TowerSize(12, 512, 512), "ViT-L-14": TowerSize(12, 768, 768)}


@dataclass(frozen=True)
class Flops:
    """Operations of one forward pass: products with frozen weights, and products of activations in attention."""

    linear: int
    attention: int

    @property
    def forward(self) -> int:
        return self.linear + self.attention

    @property
    def backward(self) -> int:
        """Return the operations of the gradients of activations alone.

        Weights are frozen, but both factors of a product in attention have a gradient.
        """
        return self.linear + 2 * self.attention

    @property
    def step(self) -> int:
        """Return the operations of the forward and the backward pass."""
        return self.forward + self.backward


def shared_prefix_flops(size: TowerSize, lengths: Sequence[int], tokens: int, prompts: int = 1) -> Flops:
    """Count the operations of ``encode_prompts`` for ``prompts`` contexts of ``tokens`` that end before the class name.

    lengths: tokens of each class's name with full stop and EOT (``ClassTokens.lengths``).
    """
    width, classes, longest, shared = size.width, len(lengths), max(lengths), 1 + tokens
    packed = shared + sum(lengths)
    layers = size.layers - 1  # the last one is for EOT alone, past its keys and values
    linear = layers * _layer(packed, width) + _products(packed, width, 3 * width)
    linear += _layer(classes, width) - _products(classes, width, 3 * width) + _products(classes, width, size.dim)
    own = layers * classes * longest + classes  # queries of class tokens, padding included
    attention = layers * _attention(shared, shared, width) + _attention(own, shared + longest, width)
    return Flops(prompts * linear, prompts * attention)


def plain_flops(size: TowerSize, classes: int, prompts: int = 1, positions: int = 77) -> Flops:
    """Count the operations of ``encode_prompts_plainly``: every class as a row of ``positions`` tokens.

    Attention is counted in full, although it is causal.
    """
    rows, width = prompts * classes, size.width
    linear = size.layers * _layer(rows * positions, width) + _products(rows, width, size.dim)
    return Flops(linear, size.layers * rows * _attention(positions, positions, width))


def _layer(tokens: int, width: int) -> int:
    """Count the operations of one layer's linear maps: queries, keys and values, their output, and the MLP."""
    hidden = _MLP * width
    return sum(
        _products(tokens, *shape) for shape in ((width, 3 * width), (width, width), (width, hidden), (hidden, width))
    )


def _products(rows: int, inner: int, columns: int) -> int:
    return 2 * rows * inner * columns


def _attention(queries: int, keys: int, width: int) -> int:
    """Count the operations of scores and of the mixture of values, all heads together."""
    return 2 * _products(queries, width, keys)
