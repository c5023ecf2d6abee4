"""Bytes that a training step keeps between its forward and its backward pass, counted without computing anything."""

from collections.abc import Sequence

import torch
from torch import Tensor

from promptfleet.clip.prompt_encoder import encode_prompts
from promptfleet.clip.prompt_layout import ClassTokens, Position
from promptfleet.clip.text_tower import TextTower


def activation_bytes(
    tower: TextTower, classes: ClassTokens, contexts: Sequence[int], position: Position = "end"
) -> int:
    """Count the bytes that ``encode_prompts`` of float32 contexts of shape ``contexts`` keeps for their gradients.

    In bfloat16 and float16 it is less, and at least half as much.
    """
    hollow = tower.to("meta")
    frame = classes.frame and classes.frame.to("meta")
    tokens = ClassTokens(classes.start.to("meta"), classes.suffix.to("meta"), classes.lengths, frame)
    frozen = {_storage(one) for one in (*hollow.weights.values(), tokens.start, tokens.suffix)}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in frozen:
            kept[_storage(tensor)] = tensor
        return tensor

    leaf = torch.empty(tuple(contexts), device="meta", requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        encode_prompts(hollow, tokens, leaf, position)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
