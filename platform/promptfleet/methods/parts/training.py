"""Local training that prompt methods share: SGD over batches, with the loss and the prompts left to the method.

Both functions are work for ``yield from`` in a local update or a personalization: a method reads like a loop of its
own, and its clients still go through the text tower together (see ``side_by_side``).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from promptfleet.methods.parts.optimizers import SGD
from promptfleet.methods.parts.prompts import local_batches, similarity_logits
from promptfleet.methods.protocol import Backward, Encode, Examples, State, Task, Work, World

ContextLoss = Callable[[Tensor, Tensor, Examples], Tensor]


@dataclass(frozen=True)
class TrainedContext:
    """A context after local training, its text features ``[classes, dim]``, and the figures to report."""

    context: Tensor
    text: Tensor
    metrics: dict[str, float]

    def kept(self, private: State) -> State:
        """The next private state of a client that keeps its own prompt, see ``no_context_yet``."""
        return {
            **private,
            "context": self.context,
            "text": self.text,
            "participations": private["participations"] + 1,
        }


def sgd(world: World, parameters: Sequence[Tensor], lr: float) -> SGD:
    """A fresh optimizer for leaf tensors, with the federation's momentum and weight decay."""
    return SGD(parameters, lr=lr, momentum=world.config.momentum, weight_decay=world.config.weight_decay)


def train_steps(
    task: Task,
    *,
    optimizers: Sequence[SGD],
    contexts: Callable[[], Tensor],
    loss: Callable[[Tensor, Examples], Tensor],
    epochs: int | None = None,
) -> Work[dict[str, float]]:
    """Step ``optimizers`` once per batch of ``epochs`` (default: ``local_epochs``); returns the metrics.

    ``contexts()`` makes ``[prompts, (classes,) tokens, width]`` from what is trained, ``loss(text, batch)`` a scalar
    from their text features ``[prompts, classes, dim]``. Without a step there are no metrics.
    """
    losses = []
    for batch in local_batches(task, epochs):
        text = yield Encode(contexts())
        value = loss(text, batch)
        yield Backward(value)
        for optimizer in optimizers:
            optimizer.step()
        losses.append(value.detach())
    return loss_metrics(losses)


def train_context(
    task: Task,
    start: Tensor,
    *,
    loss: ContextLoss | None = None,
    also: Sequence[SGD] = (),
    epochs: int | None = None,
) -> Work[TrainedContext]:
    """Train one context from ``start``, which stays as it is.

    ``loss(context, text, batch)`` defaults to the cross-entropy of CLIP's logits; ``also`` are optimizers of what else
    that loss depends on.
    """
    loss = loss or (lambda _, text, batch: prompt_loss(task.world, text, batch))
    context = start.clone().requires_grad_()
    metrics = yield from train_steps(
        task,
        optimizers=[sgd(task.world, [context], task.config.prompt_lr), *also],
        contexts=lambda: context.unsqueeze(0),
        loss=lambda text, batch: loss(context, text[0], batch),
        epochs=epochs,
    )
    context = context.detach()
    (text,) = yield Encode(context.unsqueeze(0))
    return TrainedContext(context, text, metrics)


def prompt_loss(world: World, text: Tensor, batch: Examples) -> Tensor:
    """Cross-entropy over all classes of CLIP's logits with ``text [classes, dim]``."""
    return F.cross_entropy(similarity_logits(world, batch.images.features, text), batch.labels)


def loss_metrics(losses: Sequence[Tensor]) -> dict[str, float]:
    """Mean and last of the losses of all steps; nothing where there was no step."""
    if not losses:
        return {}
    mean, last = torch.stack([torch.stack(list(losses)).mean(), losses[-1]]).tolist()  # one read from the device
    return {"loss": mean, "last_loss": last}
