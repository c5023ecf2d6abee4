"""Local training that prompt methods share: steps over batches, with the loss and the prompts left to the method."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from promptfleet.methods.parts.optimizers import Optimizer
from promptfleet.methods.parts.prompts import local_batches
from promptfleet.methods.protocol import Backward, Encode, Examples, State, Task, Work


@dataclass(frozen=True)
class TrainedContext:
    """Context after local training, its text features ``[classes, dim]``, and the figures to report."""

    context: Tensor
    text: Tensor
    metrics: dict[str, float]

    def kept(self, private: State) -> State:
        """Return the next private state of a client that keeps its own prompt, see ``no_context_yet``."""
        return {
            **private,
            "context": self.context,
            "text": self.text,
            "participations": private["participations"] + 1,
        }


def leaves(state: State) -> State:
    """Return copies of the tensors for training: leaf tensors that ask for a gradient."""
    return {name: tensor.clone().requires_grad_() for name, tensor in state.items()}


def detached(state: State) -> State:
    """Return the tensors after training, without their gradients."""
    return {name: tensor.detach() for name, tensor in state.items()}


def train_steps(
    task: Task,
    *,
    optimizers: Sequence[Optimizer],
    loss: Callable[[Tensor | None, Examples], Tensor],
    contexts: Callable[[], Tensor] | None = None,
    epochs: int | None = None,
) -> Work[dict[str, float]]:
    """Step ``optimizers`` once per batch of ``epochs`` (default: ``local_epochs``); returns the metrics.

    ``contexts()`` makes ``[prompts, (classes,) tokens, width]`` from what is trained, ``loss(text, batch)`` a scalar
    from their text features ``[prompts, classes, dim]``; without contexts ``text`` is None. Without a step there are no
    metrics. For ``yield from``: clients of one process go through the text tower together (see ``side_by_side``).
    """

    def of_batch(batch: Examples) -> Work[Tensor]:
        return loss((yield Encode(contexts())) if contexts else None, batch)

    return (yield from steps(task, optimizers=optimizers, loss=of_batch, epochs=epochs))


def steps(
    task: Task,
    *,
    optimizers: Sequence[Optimizer],
    loss: Callable[[Examples], Work[Tensor]],
    epochs: int | None = None,
) -> Work[dict[str, float]]:
    """Step as ``train_steps`` by a ``loss`` that is itself work: it may ask for any features on its way to a scalar."""
    losses = []
    for batch in local_batches(task, epochs):
        value = yield from loss(batch)
        yield Backward(value)
        for optimizer in optimizers:
            optimizer.step()
        losses.append(value.detach())
    return loss_metrics(losses)


def loss_metrics(losses: Sequence[Tensor]) -> dict[str, float]:
    """Return mean and last of the losses of all steps; nothing without a step."""
    if not losses:
        return {}
    mean, last = torch.stack([torch.stack(list(losses)).mean(), losses[-1]]).tolist()  # one read from the device
    return {"loss": mean, "last_loss": last}
