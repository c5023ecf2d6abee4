"""Text tower with one block in the place of all its layers: much smaller, and the same embeddings and projection."""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from promptfleet.clip.text_tower import TextTower


def block_of(tower: TextTower, layer: int) -> dict[str, Tensor]:
    """Return the tensors of one layer, by their names within it."""
    prefix = _prefix(layer)
    return {name.removeprefix(prefix): tensor for name, tensor in tower.weights.items() if name.startswith(prefix)}


def with_shared_block(tower: TextTower, block: Mapping[str, Tensor]) -> TextTower:
    """Return a tower whose layers all are ``block``, the same tensors; gradients flow to them if they ask for some."""
    layers = {_prefix(layer) + name: tensor for layer in range(tower.layers) for name, tensor in block.items()}
    return replace(tower, weights={**tower.weights, **layers})


def _prefix(layer: int) -> str:
    return f"transformer.resblocks.{layer}."
