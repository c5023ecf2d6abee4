"""Sizes of sparse layers in DisPFL: how many entries a client's mask has, and how many of them move after a round."""

from math import ceil, cos, pi, prod

import numpy as np
import torch
from torch import Tensor

from promptfleet.methods.parts.prompts import context_shape
from promptfleet.methods.parts.sparse import lowest
from promptfleet.methods.protocol import Task, World

MIXED = (0.2, 0.4, 0.6, 0.8, 1.0)  # densities by client id in turn, as published


def layers(world: World) -> int:
    """Return how many layers have masks of their own: one prompt, or two matrices."""
    return 1 if world.config.target == "prompt" else 2


def shape_of(world: World) -> tuple[int, ...]:
    """Return the shape of a step: that of a prompt, or ``(2, numbers)`` of an adapter's matrices."""
    if world.config.target == "prompt":
        return context_shape(world)
    return (2, world.config.adapter_width * world.clip.tower.dim)


def entries(world: World, client: int) -> int:
    """Return how many entries the client's mask has in every round, in each layer."""
    density = MIXED[client % len(MIXED)] if world.config.densities == "mixed" else world.config.density
    return max(1, round(density * prod(shape_of(world)) / layers(world)))


def moving(task: Task) -> int:
    """Return how many entries of each layer's mask go after this round, and as many come."""
    share = task.config.anneal / 2 * (1 + cos(pi * task.round / task.config.rounds))
    held = entries(task.world, task.client)
    return min(ceil(share * held), held)


def lowest_of_layers(world: World, scores: Tensor, count: int, rng: np.random.Generator) -> Tensor:
    """Return a mask of the ``count`` lowest ``scores`` of each layer."""
    by_layer = [lowest(layer, count, rng) for layer in scores.reshape(layers(world), -1)]
    return torch.stack(by_layer).view_as(scores)
