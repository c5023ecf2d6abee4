"""pFedMoAP: every client mixes its own prompt with the prompts of the few clients nearest to it.

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

from promptfleet.config import FederationConfig
from promptfleet.errors import ConfigError
from promptfleet.methods.experts.options import PoolConfig, Selection
from promptfleet.methods.experts.pool import ExpertPool
from promptfleet.methods.parts.gates import AttentionGate, Gate, LinearGate, init_gate
from promptfleet.methods.parts.prompt_method import PromptMethod
from promptfleet.methods.parts.prompts import (
    context_shape,
    context_with_text,
    encode_frozen,
    init_context,
    no_context_yet,
    own_or_given_text,
)
from promptfleet.methods.parts.states import prefixed
from promptfleet.methods.parts.training import leaves
from promptfleet.methods.protocol import (
    Arrived,
    Call,
    Encode,
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

_GATE = "gate."


class PFedMoAPConfig(FederationConfig):
    """A federation that runs pFedMoAP."""

    experts: int = Field(
        default_factory=lambda values: min(3, values["clients"] - 1),
        ge=0,
        description="K, non-local experts per client, in addition to its own; default: 3, or all others of few clients",
    )
    selection: Selection = Field(
        "nearest", description="choice of experts by their distance to the client's own prompt"
    )
    gate: Literal["attention", "linear"] = Field(
        "attention", description="attention over the experts, or a linear map from the image to their weights"
    )
    gate_sharing: Literal["kept", "averaged"] = Field(
        "kept", description="keep the gate on its client, or upload and average it like the prompt"
    )
    gating_temperature: float = Field(
        0.1, gt=0, description="softmax temperature of the attention gate (published: 0.1)"
    )
    gate_width: int = Field(64, ge=1, description="width of the reduced features in the gate (published: 128)")
    gate_heads: int = Field(8, ge=1, description="heads of the attention gate; must divide gate_width")
    gate_lr: float = Field(0.1, gt=0, description="learning rate of the gate")
    lambda_: float = Field(0.5, ge=0, alias="lambda", description="weight of the logits of the local prompt")
    pool: PoolConfig = PoolConfig()

    renamed_keys: ClassVar[Mapping[str, str]] = {
        "pool_dtype": "pool.dtype",
        "pool_storage": "pool.storage",
        "expert_search": "pool.search",
        "expert_filter": "pool.outlier_tolerance",
    }

    @model_validator(mode="after")
    def _check(self) -> "PFedMoAPConfig":
        if self.experts >= self.clients:
            raise ValueError(
                f"experts={self.experts} must be smaller than clients={self.clients}: "
                f"a client has {self.clients - 1} others to choose from"
            )
        if self.pool.search == "projected" and self.selection != "nearest":
            raise ValueError(f"pool.search=projected finds the nearest; selection={self.selection} needs exact")
        if self.gate_width % self.gate_heads:
            raise ValueError(f"gate_heads={self.gate_heads} must divide gate_width={self.gate_width}")
        if self.pool.storage == "disk" and self.storage.address is not None:
            raise ValueError(
                f"pool.storage=disk needs files that can be written in places, which storage.path={self.storage.path} "
                "has not; give a folder, or pool.storage=memory"
            )
        return self


def gate_of(config: PFedMoAPConfig) -> Gate:
    """Return the gate that the configuration describes."""
    if config.gate == "linear":
        return LinearGate(config.gate_width, 1 + config.experts)
    return AttentionGate(config.gate_width, config.gate_heads, config.gating_temperature)


class PFedMoAP(PromptMethod):
    """Mixture of personalized prompts.

    Server state: ``context`` (global, [tokens, width]), its ``text`` features [classes, dim], and the pool:
    ``pool.context`` [clients, tokens, width], ``pool.text`` [clients, classes, dim], ``pool.round`` [clients] (0: none)
    and, with ``pool.search=projected`` or many clients, ``pool.frame`` and by it ``pool.sketch`` [clients, 64].
    With ``pool.storage=disk`` the first two are rows of ``World.rows``, and the state has ``pool.place`` [clients], the
    row of each client (-1: none), the number of rows ``pool.end`` and their hash ``pool.digest`` [32].
    Private state: ``context`` and its ``text`` features, ``gate.*``, ``participations``, ``gate_ready``.
    Down: ``context`` and ``experts`` [<= K, tokens, width]; up: ``context``. The gate never leaves the client, except
    with ``gate_sharing=averaged``: then ``gate.*`` is the server's, and goes down and up with the context.
    With class-specific contexts, every context is [classes, tokens, width].
    """

    Config = PFedMoAPConfig

    def check(self, world: World) -> None:
        width, dim = world.config.gate_width, world.clip.tower.dim
        if width > dim:
            raise ConfigError(f"gate_width={width} exceeds the backbone's feature width {dim}")

    def init_server(self, world: World, rng: np.random.Generator) -> State:
        config, start = world.config, context_with_text(world, init_context(world, rng))
        return {
            **start,
            **ExpertPool.empty(config.clients, start, config.pool, config.selection, world.rows).state(),
            **(_init_gate(config, rng) if config.gate_sharing == "averaged" else {}),
        }

    def init_client(self, world: World, client: int, rng: np.random.Generator) -> State:
        return {
            **no_context_yet(world),
            "gate_ready": torch.tensor(False),
            **(_init_gate(world.config, rng) if world.config.gate_sharing == "kept" else {}),
        }

    def select(self, server: State, call: Call) -> dict[int, Message]:
        return {
            client: Message(
                tensors={"context": server["context"], "experts": experts.contexts, **_gate_tensors(server)},
                attached={"text": server["text"], "expert_text": experts.texts, "expert_ids": experts.ids},
            )
            for client, experts in _pool(call.world, server).select(call, call.world.config.experts).items()
        }

    def local_update(self, task: Task) -> Work[Update]:
        world, private, experts = task.world, task.private, task.download.attached["expert_text"]
        with_experts = len(experts) > 0
        gate = leaves(_gate_state(task))

        def loss(text: Tensor, batch: Examples) -> Tensor:
            return F.cross_entropy(self.mixture_logits(task, gate, batch.images, text, experts), batch.labels)

        gate_optimizers = [self.optimizer(task, prefixed(_GATE, gate), world.config.gate_lr)] if with_experts else []
        start = task.download.tensors["context"]
        trained = yield from self.train_context(task, start, loss=loss, also=gate_optimizers)
        trained_gate = {_GATE + name: tensor.detach() for name, tensor in gate.items()}
        is_kept = world.config.gate_sharing == "kept"
        next_private = {
            **trained.kept(private),
            "gate_ready": private["gate_ready"] | with_experts,
            **(trained_gate if is_kept else {}),
        }
        upload = Message(
            tensors={"context": trained.context, **({} if is_kept else trained_gate)}, attached={"text": trained.text}
        )
        return Update(next_private, upload, trained.metrics)

    def uploads(self, world: World) -> dict[str, Spec]:
        shapes = gate_of(world.config).shapes() if world.config.gate_sharing == "averaged" else {}
        gate = {_GATE + name: Spec(shape) for name, shape in shapes.items()}
        return {"context": Spec(context_shape(world)), **gate}

    def attachments(self, world: World, tensors: State) -> State:
        return {"text": encode_frozen(world, tensors["context"])}

    def trained_parameters(self, world: World) -> int:
        prompt, gate = prod(context_shape(world)), sum(prod(shape) for shape in gate_of(world.config).shapes().values())
        return prompt + gate if world.config.experts else prompt

    def aggregate(self, server: State, arrived: Arrived) -> State:
        mean = arrived.mean()
        return {
            **context_with_text(arrived.world, mean["context"]),
            **_gate_tensors(mean),
            **_pool(arrived.world, server).with_uploads(arrived).state(),
        }

    def keeps_rows(self, config: PFedMoAPConfig) -> bool:
        return config.pool.storage == "disk"

    def check_rows(self, world: World, server: State) -> None:
        _pool(world, server).entries.check()

    def excluded(self, world: World, server: State) -> dict[int, str]:
        outliers = _pool(world, server).outliers()
        return {
            client: f"its prompt is {distance:.3g} from the median prompt, at most {outliers.limit:.3g} is usual"
            for client, distance in outliers.distances.items()
        }

    def reworded(self, task: Task, world: World) -> Work[Task]:
        task, experts = (yield from super().reworded(task, world)), task.download.tensors["experts"]
        if not len(experts):
            return task
        attached = {**task.download.attached, "expert_text": (yield Encode(experts))}
        return replace(task, download=replace(task.download, attached=attached))

    def predict(self, task: Task, images: Images) -> Tensor:
        experts = task.download.attached["expert_text"]
        if not task.private["gate_ready"]:
            experts = experts[:0]
        return self.mixture_logits(task, _gate_state(task), images, own_or_given_text(task), experts)

    def mixture_logits(self, task: Task, gate: State, images: Images, text: Tensor, experts: Tensor) -> Tensor:
        """Return scores of the gated mixture plus lambda times the local prompt's; without experts only the latter.

        text ``[classes, dim]`` is of the local prompt, experts ``[K', classes, dim]``.
        Returns ``[batch, classes]``.
        """
        features = self.features(task, images)
        local = self.scores(task, features, text)
        if len(experts) == 0:
            return local
        scores = gate_of(task.config).scores(gate, features, torch.cat([text.unsqueeze(0), experts]))
        return task.world.clip.logit_scale * scores + task.config.lambda_ * local

    def describe(self, task: Task, images: Images) -> State:
        """Return ``experts [K']``, ids, nearest first, and ``gate_weights [1 + K']``, mean attention, local first."""
        ids, experts = (task.download.attached[name] for name in ("expert_ids", "expert_text"))
        if not task.private["gate_ready"] or len(experts) == 0:
            return {}
        together = torch.cat([task.private["text"].unsqueeze(0), experts])
        weights = gate_of(task.config).weights(_gate_state(task), self.features(task, images), together)
        return {"experts": ids, "gate_weights": weights.mean(dim=tuple(range(weights.dim() - 1)))}


def _pool(world: World, server: State) -> ExpertPool:
    return ExpertPool.of(server, world.config.pool, world.config.selection, world.rows)


def _init_gate(config: PFedMoAPConfig, rng: np.random.Generator) -> State:
    return {_GATE + name: tensor for name, tensor in init_gate(gate_of(config), rng).items()}


def _gate_tensors(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if name.startswith(_GATE)}


def _gate_state(task: Task) -> State:
    """The client's own gate or, where gates are averaged, the downloaded one."""
    gate = _gate_tensors(task.private) or _gate_tensors(task.download.tensors)
    return {name.removeprefix(_GATE): tensor for name, tensor in gate.items()}
