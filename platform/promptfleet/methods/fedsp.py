"""FedSP: the server keeps its text tower; clients train a small copy of it, and soft prompts are all that travels.

Source: Dong, Xie, Ding, Shen, Li, "Tunable Soft Prompts are Messengers in Federated Learning", Findings of EMNLP 2023
(arXiv:2311.06805). phi is the text tower, psi one block in the place of all its layers, distilled from phi at the
server (``parts/distillation.py``). A client trains psi_i with its prompt fixed, then its prompt with psi_i fixed, both
by cross-entropy of s f T_psi(P)^T. The server averages prompts and trains the result on its own images through phi.
Differs: language models become CLIP's text tower, so a prompt is a context before the class name, not a prefix of each
layer; embeddings, final norm and projection of phi are in psi; the published code averages psi as well, the paper does
not; no warm-up of learning rates.
"""

from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from promptfleet.clip.shared_block import block_of
from promptfleet.config import FederationConfig
from promptfleet.errors import ConfigError
from promptfleet.methods.parts.distillation import distill
from promptfleet.methods.parts.optimizers import Adam
from promptfleet.methods.parts.prompts import context_with_text, encode_frozen, no_context_yet, with_block
from promptfleet.methods.parts.states import joined, parted, prefixed, unprefixed
from promptfleet.methods.parts.training import detached, leaves, steps
from promptfleet.methods.promptfl import PromptFL, PromptFLConfig
from promptfleet.methods.protocol import (
    Arrived,
    Call,
    Encode,
    Examples,
    Images,
    Message,
    Needs,
    State,
    Task,
    Update,
    Work,
    World,
)

_AUXILIARY = "auxiliary."


class FedSPConfig(PromptFLConfig):
    """A federation that runs FedSP."""

    auxiliary_layer: int = Field(
        0, ge=0, description="layer of the text tower that the auxiliary model starts as and repeats (published: 0)"
    )
    distillation_steps: int = Field(200, ge=0, description="steps of distillation (published: 5000)")
    distillation_lr: float = Field(5e-4, gt=0, description="learning rate of distillation (published: 5e-4)")
    model_epochs: int = Field(1, ge=0, description="epochs of the auxiliary model in each round, before the prompt's")
    model_lr: float = Field(5e-4, gt=0, description="learning rate of the auxiliary model (published: 5e-4)")
    server_epochs: int = Field(
        0,
        ge=0,
        description="epochs of the averaged prompt on the server's own images; needs partition.public_fraction "
        "(published: on)",
    )
    predict_with: Literal["server", "client"] = Field(
        "server", description="server: the averaged prompt and the full tower; client: its own prompt and model"
    )


class FedSP(PromptFL):
    """Averaged prompt, trained by clients through auxiliary models of their own.

    Server state: ``context`` with its ``text`` features, the distilled block ``auxiliary.*``, and ``reached``
    [clients], who has it. Private state: ``model``, the numbers of the client's block in the order of their names,
    empty before it trains; to predict with its own prompt also ``context``, ``text`` and ``participations``. Down:
    ``context``, the first time also ``auxiliary.*``; up: ``context``. The tower itself never travels.
    """

    Config = FedSPConfig

    def needs_of(self, config: FederationConfig) -> Needs:
        return Needs.PUBLIC if config.server_epochs else Needs.GLOBAL

    def check(self, world: World) -> None:
        super().check(world)
        layer, layers = world.config.auxiliary_layer, world.clip.tower.layers
        if layer >= layers:
            raise ConfigError(f"auxiliary_layer={layer} does not exist: the text tower has layers 0 to {layers - 1}")

    def init_server(self, world: World, rng: np.random.Generator) -> Work[State]:
        config, prompt = world.config, super().init_server(world, rng)
        block = yield from distill(
            world, config.auxiliary_layer, steps=config.distillation_steps, lr=config.distillation_lr, rng=rng
        )
        return {**prompt, **prefixed(_AUXILIARY, block), "reached": torch.zeros(config.clients, dtype=torch.bool)}

    def init_client(self, world: World, client: int, rng: np.random.Generator) -> State:
        own = no_context_yet(world) if world.config.predict_with == "client" else {}
        return {**own, "model": torch.empty(0)}

    def select(self, server: State, call: Call) -> dict[int, Message]:
        prompt, block = {"context": server["context"]}, prefixed(_AUXILIARY, unprefixed(_AUXILIARY, server))
        uses_model = call.purpose == "train" or call.world.config.predict_with == "client"
        downloads = {}
        for client in call.clients:
            first = uses_model and not server["reached"][client]
            downloads[client] = Message({**prompt, **block} if first else prompt, {"text": server["text"]})
        return downloads

    def local_update(self, task: Task) -> Work[Update]:
        config, context = task.config, task.download.tensors["context"]
        model, prompt = leaves(self._block(task)), leaves({"context": context})
        of_model = yield from steps(
            task,
            optimizers=[Adam(model, lr=config.model_lr, weight_decay=0.01, decoupled=True)],
            loss=lambda batch: self._loss(task, model, context, batch),
            epochs=config.model_epochs,
        )
        fixed = detached(model)
        metrics = yield from steps(
            task,
            optimizers=[self.optimizer(task, prompt, config.prompt_lr)],
            loss=lambda batch: self._loss(task, fixed, prompt["context"], batch),
        )
        trained = detached(prompt)
        private = {**task.private, **_own_prompt(task, fixed, trained["context"]), "model": joined(_by_name(fixed))}
        return Update(private, Message(trained), {**prefixed("model_", of_model), **metrics})

    def trained_parameters(self, world: World) -> int:
        return super().trained_parameters(world) + sum(size.numel() for size in block_of(world.clip.tower, 0).values())

    def aggregate(self, server: State, arrived: Arrived) -> Work[State]:
        world, context, reached = arrived.world, arrived.mean()["context"], server["reached"].clone()
        reached[list(arrived.uploads)] = True
        if world.config.server_epochs:
            trained = yield from self.train_context(_on_public(arrived), context, epochs=world.config.server_epochs)
            context = trained.context
        return {**server, **context_with_text(world, context), "reached": reached}

    def personalize(self, task: Task) -> State:
        """Return the private state; a client that never trained gets the model it would train, and the prompt."""
        if task.config.predict_with == "server" or task.private["participations"] > 0:
            return task.private
        block, context = self._block(task), task.download.tensors["context"]
        text = encode_frozen(with_block(task.world, block), context)
        return {**task.private, "context": context, "text": text, "model": joined(_by_name(block))}

    def predict(self, task: Task, images: Images) -> Tensor:
        return self.logits(task, images, task.private.get("text", task.download.attached["text"]))

    def reworded(self, task: Task, world: World) -> Work[Task]:
        """Return the task with other class names behind the server's prompt, or behind the client's own."""
        block = self._block(task) if "text" in task.private else None
        task = yield from super().reworded(task, world)
        if block is None:
            return task
        text = encode_frozen(with_block(world, block), task.private["context"])
        return replace(task, private={**task.private, "text": text})

    def _block(self, task: Task) -> State:
        """Return the block of the client's model, or of the downloaded one if it never trained."""
        if not len(task.private["model"]):
            return unprefixed(_AUXILIARY, task.download.tensors)
        return parted(task.private["model"], _by_name(block_of(task.world.clip.tower, 0)))

    def _loss(self, task: Task, block: State, context: Tensor, batch: Examples) -> Work[Tensor]:
        (text,) = yield Encode(context.unsqueeze(0), block=block)
        return self.cross_entropy(task, text, batch)


def _own_prompt(task: Task, block: State, context: Tensor) -> State:
    if task.config.predict_with == "server":
        return {}
    text = encode_frozen(with_block(task.world, block), context)
    return {"context": context, "text": text, "participations": task.private["participations"] + 1}


def _by_name(block: State) -> State:
    """Return the block in the order of names, in which a private state has its numbers."""
    return dict(sorted(block.items()))


def _on_public(arrived: Arrived) -> Task:
    """Return the server's own training on its public examples as a task."""
    world, public = arrived.world, arrived.world.public
    return Task(world, -1, arrived.round, {}, Message({}), public, public[torch.arange(0)], arrived.rng)
