"""Inner loop of meta-learning: a few steps of plain gradient descent from a start that is learned."""

from collections.abc import Callable

import torch

from promptfleet.methods.parts.optimizers import SGD
from promptfleet.methods.parts.training import detached, leaves
from promptfleet.methods.protocol import Backward, Gradients, State, Work

Objective = Callable[[State], Work["torch.Tensor"]]  # parameters -> a scalar


def descend(
    start: State, objective: Objective, bounded: Callable[[State], State], *, lr: float, steps: int
) -> Work[State]:
    """Return leaves after the steps, each followed by ``bounded``; the start gets no gradient."""
    reached = leaves(detached(start))
    optimizer = SGD(reached, lr=lr)
    for _ in range(steps):
        yield Backward((yield from objective(reached)))
        optimizer.step()
        with torch.no_grad():
            for name, tensor in bounded(reached).items():
                reached[name].copy_(tensor)
    return reached


def descend_differentiably(
    start: State, objective: Objective, bounded: Callable[[State], State], *, lr: float, steps: int
) -> Work[State]:
    """Return the same numbers, so that gradients flow through the steps to the start."""
    reached = {name: tensor.clone() for name, tensor in start.items()}
    for _ in range(steps):
        gradients = yield Gradients((yield from objective(reached)), list(reached.values()))
        moved = zip(reached.items(), gradients, strict=True)
        reached = bounded({name: tensor - lr * gradient for (name, tensor), gradient in moved})
    return reached
