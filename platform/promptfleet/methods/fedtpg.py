"""FedTPG: clients share a network that writes a prompt from the names of a client's own classes.

Source: Qiu et al., "Federated Text-driven Prompt Generation for Vision-Language Models", ICLR 2024 (arXiv:2310.06123).
Differs: the classes' text features are those of the dataset's template, which every federation has at hand, not of the
bare names; prediction is over all classes of the dataset, from a prompt made for all of them. The cosine counts rounds
of the federation, the published one those in which the client itself trained.
"""

import math
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from promptfleet.config import FederationConfig
from promptfleet.errors import ConfigError
from promptfleet.methods.parts.optimizers import Optimizer
from promptfleet.methods.parts.prompt_generator import HEADS, generate_context, generator_shapes, init_generator
from promptfleet.methods.parts.prompts import context_with_text, encoded, require_a_text_per_class
from promptfleet.methods.parts.states import joined, parted, prefixed, unprefixed
from promptfleet.methods.parts.training import detached, leaves, train_steps
from promptfleet.methods.promptfl import PromptFL
from promptfleet.methods.protocol import Arrived, Call, Examples, Message, Spec, State, Task, Update, Work, World

_GENERATOR, _VELOCITY = "generator.", "velocity."


class FedTPGConfig(FederationConfig):
    """Configuration of FedTPG. ``prompt_lr`` is the generator's learning rate in round 1."""

    generator_classes: Literal["local", "all"] = Field(
        "local", description="classes that a client generates prompts for and trains on: its own (local), or all"
    )
    keep_momentum: bool = Field(
        True,
        description="each client keeps its momentum for its next round, as published; it is as large as the generator "
        "(14 MB for ViT-B-16), also in the checkpoints of the rounds in which the client trained",
    )


class FedTPG(PromptFL):
    """Prompt generator that is averaged as a whole, every client counting the same.

    Server state: ``generator.*``, and for prediction the ``context`` for all classes with its ``text`` features.
    Private state: ``momentum``, the velocity of all generator's numbers in the order of their names in messages, empty
    before the client trains; nothing without ``keep_momentum``. Clients predict as in PromptFL. Down and up:
    ``generator.*``. The learning rate falls along a cosine over rounds.
    """

    Config = FedTPGConfig

    def check(self, world: World) -> None:
        if world.config.class_specific_context:
            raise ConfigError("fedtpg makes one context for all classes: class_specific_context must be false")
        if world.clip.tower.width % HEADS:
            raise ConfigError(f"fedtpg needs a text tower whose width {HEADS} divides, not {world.clip.tower.width}")
        require_a_text_per_class(world)

    def init_server(self, world: World, rng: np.random.Generator) -> State:
        return _server_state(world, prefixed(_GENERATOR, init_generator(*_sizes(world), rng)))

    def init_client(self, world: World, client: int, rng: np.random.Generator) -> State:
        return {"momentum": torch.empty(0)} if world.config.keep_momentum else {}

    def select(self, server: State, call: Call) -> dict[int, Message]:
        generator = prefixed(_GENERATOR, unprefixed(_GENERATOR, server))
        return call.to_all(Message(generator, attached={"text": server["text"]}))

    def local_update(self, task: Task) -> Work[Update]:
        config, world, labels = task.config, task.world, task.train.labels
        parameters = leaves(prefixed(_GENERATOR, unprefixed(_GENERATOR, task.download.tensors)))
        generator = unprefixed(_GENERATOR, parameters)
        classes = torch.arange(len(world.clip.classes), device=labels.device)
        if config.generator_classes == "local":
            classes = labels.unique()
        class_text = world.clip.zero_shot_text[classes]

        def loss(text: Tensor, batch: Examples) -> Tensor:
            logits = self.logits(task, batch.images, text[0, classes])
            return F.cross_entropy(logits, torch.searchsorted(classes, batch.labels))

        optimizer = self.optimizer(task, parameters, cosine(config.prompt_lr, task.round - 1, config.rounds))
        optimizer.state.update(_velocities(task.private, parameters))
        metrics = yield from train_steps(
            task,
            optimizers=[optimizer],
            contexts=lambda: generate_context(generator, class_text).unsqueeze(0),
            loss=loss,
        )
        return Update(_kept(task.private, optimizer), Message(detached(parameters)), metrics)

    def uploads(self, world: World) -> dict[str, Spec]:
        shapes = prefixed(_GENERATOR, generator_shapes(*_sizes(world)))
        return {name: Spec(shape) for name, shape in shapes.items()}

    def reworded(self, task: Task, world: World) -> Work[Task]:
        """Generate a context for the other classes, too."""
        generator = unprefixed(_GENERATOR, task.download.tensors)
        attached = yield from encoded(generate_context(generator, world.clip.zero_shot_text))
        return replace(task, world=world, download=replace(task.download, attached=attached))

    def aggregate(self, server: State, arrived: Arrived) -> State:
        return _server_state(arrived.world, arrived.mean("equal"))


def cosine(start: float, step: int, steps: int) -> float:
    """Return a learning rate that falls from ``start`` in step 0 along half a cosine to 0 in step ``steps``."""
    return start * (1 + math.cos(math.pi * step / steps)) / 2


def _velocities(private: State, parameters: State) -> State:
    """Return the state of an optimizer of ``parameters`` with the client's momentum, if it has any."""
    momentum = private.get("momentum", torch.empty(0))
    if not len(momentum):
        return {}
    return prefixed(_VELOCITY, parted(momentum.clone(), parameters))


def _kept(private: State, optimizer: Optimizer) -> State:
    """Return the next private state; an optimizer without steps or velocities leaves it as it is."""
    velocities = unprefixed(_VELOCITY, optimizer.state)
    if "momentum" not in private or not velocities:
        return private
    return {**private, "momentum": joined({name: velocities[name] for name in optimizer.parameters})}


def _sizes(world: World) -> tuple[int, int, int]:
    return world.config.prompt_length, world.clip.tower.width, world.clip.tower.dim


def _server_state(world: World, generator: State) -> State:
    """Make the server's state from the named tensors ``generator.*``."""
    with torch.no_grad():
        context = generate_context(unprefixed(_GENERATOR, generator), world.clip.zero_shot_text.cpu())
    return {**generator, **context_with_text(world, context)}
