"""pFedMoAP: each client mixes its own prompt with the prompts of the few clients nearest to it.

Source: Luo, Chen, Wu, "Mixture of Experts Made Personalized: Federated Prompt Learning for Vision-Language Models",
ICLR 2025 (arXiv:2410.10114). Differs from the published code where that departs from the paper: nearest experts are
really selected; selection reads the pool as it stood at the end of the previous round; each client keeps its own gate
and starts each update with fresh optimizers; trainables are float32; all clients are evaluated at the same point.
``gate``, ``gate_sharing`` and ``selection`` are the paper's ablations; ``pool.outlier_tolerance`` is ours.
"""

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from promptfleet.methods.experts.options import FORMER_KEYS, PoolConfig, Selection
from promptfleet.methods.experts.pool import ExpertPool
from promptfleet.methods.parts.gates import Gate, GateConfig, check_width, gate_tensors, init_gate, make_gate
from promptfleet.methods.parts.prompt_method import PromptMethod
from promptfleet.methods.parts.prompts import (
    context_shape,
    context_with_text,
    encode_frozen,
    init_context,
    no_context_yet,
    own_or_given_text,
)
from promptfleet.methods.parts.training import detached, leaves
from promptfleet.methods.protocol import Arrived, Call, Encode, Images, Message, Spec, State, Task, Update, Work, World


class PFedMoAPConfig(GateConfig):
    """A federation that runs pFedMoAP."""

    experts: int = Field(
        default_factory=lambda values: min(3, values["clients"] - 1),
        ge=0,
        description="K, non-local experts per client, in addition to its own; default: 3, or all others of few clients",
    )
    selection: Selection = Field(
        "nearest", description="choice of experts by their distance to the client's own prompt"
    )
    gate_sharing: Literal["kept", "averaged"] = Field(
        "kept", description="keep the gate on its client, or upload and average it like the prompt"
    )
    gate_lr: float = Field(0.03, gt=0, description="learning rate of the gate")
    lambda_: float = Field(0.5, ge=0, alias="lambda", description="weight of the logits of the local prompt")
    pool: PoolConfig = PoolConfig()

    renamed_keys: ClassVar[Mapping[str, str]] = FORMER_KEYS

    @model_validator(mode="after")
    def _check(self) -> "PFedMoAPConfig":
        if self.experts >= self.clients:
            raise ValueError(
                f"experts={self.experts} must be smaller than clients={self.clients}: "
                f"a client has {self.clients - 1} others to choose from"
            )
        if self.pool.search == "projected" and self.selection != "nearest":
            raise ValueError(f"pool.search=projected finds the nearest; selection={self.selection} needs exact")
        if self.pool.storage == "disk" and self.storage.address is not None:
            raise ValueError(
                f"pool.storage=disk needs files that can be written in places, which storage.path={self.storage.path} "
                "has not; give a folder, or pool.storage=memory"
            )
        return self


class PFedMoAP(PromptMethod):
    """Mixture of personalized prompts.

    Server state: ``context`` (global, [tokens, width]), its ``text`` features [classes, dim], and the ``ExpertPool``.
    Private state: ``context`` and its ``text`` features, ``gate.*``, ``participations``, ``gate_ready``.
    Down: ``context`` and ``experts`` [<= K, tokens, width]; up: ``context``. The gate never leaves the client, except
    with ``gate_sharing=averaged``: then ``gate.*`` is the server's, and goes down and up with the context.
    With class-specific contexts, every context is [classes, tokens, width].
    """

    Config = PFedMoAPConfig

    def check(self, world: World) -> None:
        check_width(world.config, world.clip.tower.dim)

    def init_server(self, world: World, rng: np.random.Generator) -> State:
        config, start = world.config, context_with_text(world, init_context(world, rng))
        return {
            **start,
            **ExpertPool.empty(config.clients, start, config.pool, config.selection, world.rows).state(),
            **(init_gate(gate_of(config), rng) if config.gate_sharing == "averaged" else {}),
        }

    def init_client(self, world: World, client: int, rng: np.random.Generator) -> State:
        return {
            **no_context_yet(world),
            "gate_ready": torch.tensor(False),
            **(init_gate(gate_of(world.config), rng) if world.config.gate_sharing == "kept" else {}),
        }

    def select(self, server: State, call: Call) -> dict[int, Message]:
        return {
            client: Message(
                tensors={"context": server["context"], "experts": experts.contexts, **gate_tensors(server)},
                attached={"text": server["text"], "expert_text": experts.texts, "expert_ids": experts.ids},
            )
            for client, experts in pool_of(call.world, server).select(call, call.world.config.experts).items()
        }

    def local_update(self, task: Task) -> Work[Update]:
        experts, gate = task.download.attached["expert_text"], leaves(own_or_shared_gate(task))
        with_experts = len(experts) > 0
        trained = yield from self.train_context(
            task,
            start=task.download.tensors["context"],
            loss=lambda text, batch: F.cross_entropy(
                self.mixture_logits(task, gate, batch.images, text, experts), batch.labels
            ),
            also=[self.optimizer(task, gate, task.config.gate_lr)] if with_experts else [],
        )
        ready = {"gate_ready": task.private["gate_ready"] | with_experts}
        kept, sent = (detached(gate), {}) if task.config.gate_sharing == "kept" else ({}, detached(gate))
        upload = Message({"context": trained.context, **sent}, {"text": trained.text})
        return Update({**trained.kept(task.private), **ready, **kept}, upload, trained.metrics)

    def uploads(self, world: World) -> dict[str, Spec]:
        shapes = gate_of(world.config).shapes() if world.config.gate_sharing == "averaged" else {}
        return {"context": Spec(context_shape(world)), **{name: Spec(shape) for name, shape in shapes.items()}}

    def aggregate(self, server: State, arrived: Arrived) -> State:
        mean, pool = arrived.mean(), pool_of(arrived.world, server).with_uploads(arrived)
        return {**context_with_text(arrived.world, mean["context"]), **gate_tensors(mean), **pool.state()}

    def reworded(self, task: Task, world: World) -> Work[Task]:
        task, experts = (yield from super().reworded(task, world)), task.download.tensors["experts"]
        if not len(experts):
            return task
        attached = {**task.download.attached, "expert_text": (yield Encode(experts))}
        return replace(task, download=replace(task.download, attached=attached))

    def predict(self, task: Task, images: Images) -> Tensor:
        given = task.download.attached["expert_text"]
        experts = given if task.private["gate_ready"] else given[:0]
        return self.mixture_logits(task, own_or_shared_gate(task), images, own_or_given_text(task), experts)

    def mixture_logits(self, task: Task, gate: State, images: Images, text: Tensor, experts: Tensor) -> Tensor:
        """Return the mixture's scores plus lambda times those of the local prompt; without experts the latter alone.

        text ``[classes, dim]`` is of the local prompt, experts ``[K', classes, dim]``. Returns ``[batch, classes]``.
        """
        features = self.features(task, images)
        local = self.scores(task, features, text)
        if len(experts) == 0:
            return local
        scores = gate_of(task.config).scores(gate, features, torch.cat([text.unsqueeze(0), experts]))
        mixed = self.class_scores(task, features, task.world.clip.logit_scale * scores)
        return mixed + task.config.lambda_ * local

    def describe(self, task: Task, images: Images) -> State:
        """Return ``experts [K']``, nearest first, and mean ``gate_weights [1 + K']``, the local expert first."""
        ids, experts = (task.download.attached[name] for name in ("expert_ids", "expert_text"))
        if not task.private["gate_ready"] or len(experts) == 0:
            return {}
        together = torch.cat([task.private["text"].unsqueeze(0), experts])
        weights = gate_of(task.config).weights(own_or_shared_gate(task), self.features(task, images), together)
        return {"experts": ids, "gate_weights": weights.mean(dim=tuple(range(weights.dim() - 1)))}

    def attachments(self, world: World, tensors: State) -> State:
        return {"text": encode_frozen(world, tensors["context"])}

    def trained_parameters(self, world: World) -> int:
        prompt, gate = prod(context_shape(world)), sum(prod(shape) for shape in gate_of(world.config).shapes().values())
        return prompt + gate if world.config.experts else prompt

    def keeps_rows(self, config: PFedMoAPConfig) -> bool:
        return config.pool.storage == "disk"

    def check_rows(self, world: World, server: State) -> None:
        pool_of(world, server).entries.check()

    def excluded(self, world: World, server: State) -> dict[int, str]:
        return pool_of(world, server).outliers().reasons()


def pool_of(world: World, server: State) -> ExpertPool:
    """Return the pool in a server's state."""
    return ExpertPool.of(server, world.config.pool, world.config.selection, world.rows)


def gate_of(config: PFedMoAPConfig) -> Gate:
    """Return the gate that the configuration describes."""
    return make_gate(config, 1 + config.experts)


def own_or_shared_gate(task: Task) -> State:
    """Return the client's own gate or, with ``gate_sharing=averaged``, the downloaded one."""
    return gate_tensors(task.private) or gate_tensors(task.download.tensors)
