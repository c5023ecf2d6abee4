"""Text tower with one block in the place of all its layers: much smaller, and the same embeddings and projection."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from promptfleet.clip.text_tower import TextTower


def block_of(tower: TextTower, layer: int) -> dict[str, Tensor]:
    """Return the tensors of one layer, by their names within it."""
    prefix = _prefix(layer)
    return {name.removeprefix(prefix): tensor for name, tensor in tower.weights.items() if name.startswith(prefix)}


def with_shared_block(tower: TextTower, block: Mapping[str, Tensor]) -> TextTower:
    """Return a tower whose layers all are ``block``, the same tensors; gradients flow to them if they ask for some.

    With the blocks of ``stacked`` each row of the tower's input goes through its own.
    """
    layers = {_prefix(layer) + name: tensor for layer in range(tower.layers) for name, tensor in block.items()}
    return replace(tower, weights={**tower.weights, **layers})


def stacked(blocks: Sequence[Mapping[str, Tensor]], rows: int) -> dict[str, Tensor]:
    """Return tensors ``[blocks * rows, ...]`` for ``with_shared_block``, each block for ``rows`` rows in turn."""
    return {name: torch.cat([block[name].expand(rows, *block[name].shape) for block in blocks]) for name in blocks[0]}


def _prefix(layer: int) -> str:
    return f"transformer.resblocks.{layer}."
