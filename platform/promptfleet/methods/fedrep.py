"""FedRep: clients share a representation and keep a head each; a client fits its head first, then the representation.

Source: Collins, Hassani, Mokhtari, Shakkottai, "Exploiting Shared Representations for Personalized Federated Learning",
ICML 2021 (arXiv:2102.07078), Algorithm 1: tau_h epochs of the head h_i with phi fixed, then tau_r epochs of phi with
h_i fixed; only phi is averaged. After the last round every client fits its head once more, as in the published code.
On CLIP (ours): phi is a prompt P with z = s f norm(T(P) + alpha R_i)^T, or an adapter a(f) = norm(f + c W2 relu(W1 f))
of the image features, with z = s a(f) (T + alpha R_i)^T + b_i for the text features T of the dataset's template.
Differs: each phase has a fresh optimizer, so nothing moves what is fixed; weight decay pulls a head to its start.
"""

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from promptfleet.config import FederationConfig
from promptfleet.methods.parts.image_adapter import adapted, adapter_shapes, init_adapter
from promptfleet.methods.parts.prompt_method import PromptMethod
from promptfleet.methods.parts.prompts import context_shape, context_with_text, init_context
from promptfleet.methods.parts.training import detached, leaves, train_steps
from promptfleet.methods.protocol import (
    Arrived,
    Call,
    Examples,
    Images,
    Message,
    Spec,
    State,
    Task,
    Update,
    Work,
    World,
)


class FedRepConfig(FederationConfig):
    """A federation that runs FedRep."""

    representation: Literal["prompt", "adapter"] = Field(
        "prompt", description="shared part: a prompt, or a network of two layers on the image features"
    )
    head_epochs: int = Field(10, ge=0, description="tau_h, local epochs of the head in each round (published: 10)")
    representation_epochs: int = Field(
        default_factory=lambda values: values["local_epochs"],
        ge=0,
        description="tau_r, local epochs of the shared part in each round; default: local_epochs (published: 1)",
    )
    final_epochs: int = Field(
        10, ge=0, description="epochs of every client's head after the last round, never uploaded (published: 10)"
    )
    head_lr: float = Field(0.01, gt=0, description="learning rate of the head (published: 0.01)")
    head_weight: float = Field(1.0, ge=0, description="alpha, weight of the head in each class feature")
    adapter_lr: float = Field(0.01, gt=0, description="learning rate of the adapter (published: 0.01)")
    adapter_width: int = Field(32, ge=1, description="hidden units of the adapter")
    present_classes: bool = Field(False, description="train with the logits of the client's own classes alone")
    weighting: Literal["examples", "equal"] = Field(
        "examples", description="weight of clients in the average: by examples, or equally (published for CIFAR)"
    )


class FedRep(PromptMethod):
    """Shared representation and private heads.

    Server state: the representation, ``context`` with its ``text`` features, or ``adapter.*``. Private state: ``head``
    [classes, dim] and ``bias`` [classes], which are 0 at the start; a prompt uses no bias. Down and up: the
    representation.
    """

    Config = FedRepConfig
    reworded = None  # a head has a row per class that it was trained on

    def has_prompt(self, config: FedRepConfig) -> bool:
        return config.representation == "prompt"

    def init_server(self, world: World, rng: np.random.Generator) -> State:
        if world.config.representation == "prompt":
            return context_with_text(world, init_context(world, rng))
        return init_adapter(world.clip.tower.dim, world.config.adapter_width, rng)

    def init_client(self, world: World, client: int, rng: np.random.Generator) -> State:
        classes, dim = world.clip.zero_shot_text.shape
        bias = {} if world.config.representation == "prompt" else {"bias": torch.zeros(classes)}
        return {"head": torch.zeros(classes, dim), **bias}

    def select(self, server: State, call: Call) -> dict[int, Message]:
        attached = {"text": server["text"]} if call.world.config.representation == "prompt" else {}
        return call.to_all(Message({name: server[name] for name in _shapes(call.world)}, attached))

    def local_update(self, task: Task) -> Work[Update]:
        config, given, present = task.config, _given_text(task), _present(task)
        head, of_head = yield from self._fit_head(task, config.head_epochs)
        shared = leaves(_shared(task))
        metrics = yield from train_steps(
            task,
            optimizers=[self.optimizer(task, shared, config.prompt_lr if "context" in shared else config.adapter_lr)],
            contexts=(lambda: shared["context"].unsqueeze(0)) if "context" in shared else None,
            loss=lambda text, batch: self._loss(task, shared, head, given if text is None else text[0], batch, present),
            epochs=config.representation_epochs,
        )
        return Update(head, Message(detached(shared)), {**of_head, **metrics})

    def uploads(self, world: World) -> dict[str, Spec]:
        return {name: Spec(shape) for name, shape in _shapes(world).items()}

    def trained_parameters(self, world: World) -> int:
        classes, dim = world.clip.zero_shot_text.shape
        bias = 0 if world.config.representation == "prompt" else classes
        return super().trained_parameters(world) + classes * dim + bias

    def aggregate(self, server: State, arrived: Arrived) -> State:
        mean = arrived.mean(arrived.world.config.weighting, _shapes(arrived.world))
        return context_with_text(arrived.world, mean["context"]) if "context" in mean else mean

    def personalize(self, task: Task) -> Work[State]:
        head, _ = yield from self._fit_head(task, task.config.final_epochs if task.round == task.config.rounds else 0)
        return head

    def predict(self, task: Task, images: Images) -> Tensor:
        return self._logits(task, _shared(task), task.private, _given_text(task), images)

    def _fit_head(self, task: Task, epochs: int) -> Work[tuple[State, dict[str, float]]]:
        """Train the head on ``epochs`` with the downloaded representation; return it and the metrics."""
        head, shared, given, present = leaves(_head(task)), _shared(task), _given_text(task), _present(task)
        metrics = yield from train_steps(
            task,
            optimizers=[self.optimizer(task, head, task.config.head_lr)],
            loss=lambda _, batch: self._loss(task, shared, head, given, batch, present),
            epochs=epochs,
        )
        return detached(head), metrics

    def _loss(self, task: Task, shared: State, head: State, text: Tensor, batch: Examples, present: Tensor) -> Tensor:
        logits = self._logits(task, shared, head, text, batch.images)
        return F.cross_entropy(logits.masked_fill(~present, -torch.inf), batch.labels)

    def _logits(self, task: Task, shared: State, head: State, text: Tensor, images: Images) -> Tensor:
        """Return logits ``[images, classes]``; ``text [classes, dim]`` is T(P) or, for an adapter, the template's."""
        features, text = self.features(task, images), text + task.config.head_weight * head["head"]
        if "context" in shared:
            return self.scores(task, features, F.normalize(text, dim=-1))
        return self.scores(task, adapted(shared, features), text) + head["bias"]


def _shapes(world: World) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of the representation."""
    if world.config.representation == "prompt":
        return {"context": context_shape(world)}
    return adapter_shapes(world.clip.tower.dim, world.config.adapter_width)


def _shared(task: Task) -> State:
    return {name: task.download.tensors[name] for name in _shapes(task.world)}


def _head(task: Task) -> State:
    return {name: task.private[name] for name in ("head", "bias") if name in task.private}


def _given_text(task: Task) -> Tensor:
    """Return the text features that heads start from: those of the downloaded prompt, or of the template."""
    return task.download.attached.get("text", task.world.clip.zero_shot_text)


def _present(task: Task) -> Tensor:
    """Return true for the classes ``[classes]`` whose logits are trained."""
    if not task.config.present_classes:
        return torch.ones(len(task.world.class_names), dtype=torch.bool, device=task.world.device)
    labels = torch.arange(len(task.world.class_names), device=task.world.device)
    return torch.isin(labels, task.train.labels)
