"""Base of methods that classify images by text features, with the seams at which a plug-in changes them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from promptfleet.methods.parts.optimizers import SGD, Optimizer
from promptfleet.methods.parts.prompts import encoded, own_or_given_text, similarity_logits
from promptfleet.methods.parts.training import TrainedContext, detached, leaves, train_steps
from promptfleet.methods.protocol import Examples, Images, Method, State, Task, Work, World

Loss = Callable[[Tensor, Examples], Tensor]  # text features [classes, dim] and a batch -> a scalar


class PromptMethod(Method):
    """Base of prompt methods, which train with ``optimizer`` and predict with ``scores`` of ``features``.

    These three are seams: a plug-in is a mixin that overrides some of them, and works with any method that keeps to
    them, as in ``class FedLALRonFedPGP(LocalAMSGrad, FedPGP)``. They are functions of the task, so a plug-in that
    needs tensors of its own there puts them into ``task.private``.
    """

    def optimizer(self, task: Task, parameters: Mapping[str, Tensor], lr: float) -> Optimizer:
        """Make the optimizer of leaf tensors, by default SGD with ``momentum`` and ``weight_decay``.

        Parameters that are uploaded are named as in the upload.
        """
        return SGD(parameters, lr=lr, momentum=task.config.momentum, weight_decay=task.config.weight_decay)

    def features(self, task: Task, images: Images) -> Tensor:
        """Return the image features ``[images, dim]`` that are compared with text features."""
        return images.features

    def scores(self, task: Task, features: Tensor, text: Tensor) -> Tensor:
        """Return the logits ``[images, classes]`` of image ``features`` with ``text [classes, dim]``."""
        return similarity_logits(task.world, features, text)

    def class_scores(self, task: Task, features: Tensor, of_texts: Tensor) -> Tensor:
        """Return logits of classes from those ``of_texts`` that a method has mixed itself, by default the same.

        A plug-in that gives a class several texts does this in ``scores`` for all others.
        """
        return of_texts

    def logits(self, task: Task, images: Images, text: Tensor) -> Tensor:
        """Return the ``scores`` of the ``features`` of ``images``."""
        return self.scores(task, self.features(task, images), text)

    def cross_entropy(self, task: Task, text: Tensor, batch: Examples) -> Tensor:
        """Return the mean cross-entropy over all classes of the logits with ``text [classes, dim]``."""
        return F.cross_entropy(self.logits(task, batch.images, text), batch.labels)

    def loss(self, task: Task, context: Tensor, text: Tensor, batch: Examples) -> Tensor:
        """Return the loss of one context that ``train_context`` minimizes, by default the cross-entropy."""
        return self.cross_entropy(task, text, batch)

    def predict(self, task: Task, images: Images) -> Tensor:
        """Return the logits with ``text`` of the private state or, if it has none or never trained, of the download."""
        return self.logits(task, images, own_or_given_text(task))

    def reworded(self, task: Task, world: World) -> Work[Task]:
        """Return the task to predict the classes of ``world`` with, see ``PredictsOtherClasses``.

        Each ``text`` is made again from the ``context`` next to it, in the private state and in the download. A method
        with other text features overrides this; one that cannot do it sets ``reworded = None``.
        """
        private = yield from _again(task.private)
        given = yield from _again({**task.download.attached, **task.download.tensors})
        attached = {name: given[name] for name in task.download.attached}
        return replace(task, world=world, private=private, download=replace(task.download, attached=attached))

    def train_context(
        self,
        task: Task,
        start: Tensor,
        *,
        loss: Loss | None = None,
        also: Sequence[Optimizer] = (),
        epochs: int | None = None,
    ) -> Work[TrainedContext]:
        """Train one context from ``start``, which stays as it is, on ``epochs`` (default: ``local_epochs``).

        ``loss(text, batch)`` defaults to the method's; ``also`` are optimizers of what else it depends on.
        """
        parts, metrics = yield from self.train_parts(
            task, {"context": start}, lambda parts: parts["context"], loss=loss, also=also, epochs=epochs
        )
        return TrainedContext(**(yield from encoded(parts["context"])), metrics=metrics)

    def train_parts(
        self,
        task: Task,
        parts: State,
        join: Callable[[State], Tensor],
        *,
        loss: Loss | None = None,
        also: Sequence[Optimizer] = (),
        epochs: int | None = None,
    ) -> Work[tuple[State, dict[str, float]]]:
        """Train ``parts`` that ``join`` makes one context of; return them trained, and the metrics.

        See ``train_context``; the parts that are uploaded are named as in the upload.
        """
        parameters = leaves(parts)
        metrics = yield from train_steps(
            task,
            optimizers=[self.optimizer(task, parameters, task.config.prompt_lr), *also],
            contexts=lambda: join(parameters).unsqueeze(0),
            loss=lambda text, batch: (
                loss(text[0], batch) if loss else self.loss(task, join(parameters), text[0], batch)
            ),
            epochs=epochs,
        )
        return detached(parameters), metrics


def _again(state: State) -> Work[State]:
    """Return the state with the text features of its context made again, where it has both."""
    return {**state, **(yield from encoded(state["context"]))} if state.keys() >= {"context", "text"} else state
