"""Distillation of a text tower into one block that all its layers share.

Source: Dong, Xie, Ding, Shen, Li (arXiv:2311.06805): the mean squared difference of hidden states, summed over layers,
with AdamW. The texts are those of the classes behind random contexts.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from promptfleet.clip.prompt_encoder import hidden_states
from promptfleet.clip.shared_block import block_of, with_shared_block
from promptfleet.methods.parts.optimizers import Adam
from promptfleet.methods.parts.prompts import context_shape
from promptfleet.methods.parts.training import detached, leaves
from promptfleet.methods.protocol import Backward, State, Work, World

CONTEXTS = 4  # in a step
STD = (0.02, 0.2)  # smallest and largest standard deviation of a context


def distill(world: World, layer: int, *, steps: int, lr: float, rng: np.random.Generator) -> Work[State]:
    """Return the block, trained for ``steps`` from that of ``layer``."""
    block = leaves(block_of(world.clip.tower, layer))
    optimizer = Adam(block, lr=lr, weight_decay=0.01, decoupled=True)
    for _ in range(steps):
        yield Backward(hidden_error(world, block, random_contexts(world, CONTEXTS, rng)))
        optimizer.step()
    return detached(block)


def hidden_error(world: World, block: State, contexts: Tensor) -> Tensor:
    """Return the mean squared difference of hidden states from the tower's, summed over layers, a scalar."""
    clip, position = world.clip, world.config.class_token_position
    with torch.no_grad():
        wanted = list(hidden_states(clip.tower, clip.classes, contexts, position))
    found = hidden_states(with_shared_block(clip.tower, block), clip.classes, contexts, position)
    return torch.stack([F.mse_loss(ours, theirs) for ours, theirs in zip(found, wanted, strict=True)]).sum()


def random_contexts(world: World, count: int, rng: np.random.Generator) -> Tensor:
    """Draw contexts ``[count, (classes,) tokens, width]``, each normal with a standard deviation of its own."""
    shape = context_shape(world)
    std = rng.uniform(*STD, count).reshape(-1, *(1 for _ in shape))
    return torch.from_numpy((std * rng.standard_normal((count, *shape))).astype(np.float32)).to(world.device)
