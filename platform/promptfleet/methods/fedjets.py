"""FedJETs: a gate and its experts are trained together; a client gets the gate, and picks the experts for its data.

Source: Dun, Hipolito Garcia, Zheng, Awadallah, Sim, Kyrillidis, Dimitriadis: "FedJETs: Efficient Just-In-Time
Personalization with Federated Mixture of Experts", arXiv:2306.08586. An expert is a prompt; the common expert is CLIP's
image encoder f. With g(x) = softmax(gate(f(x))), a client picks the K experts Q of the largest sum of g over its
training images, and trains them and the gate by the cross-entropy of sum_{q in Q} g_q logits_q. An anchor client trains
the one expert that it is the anchor of, and the gate to name that expert for its images. The server averages each
expert over those who trained it, and the gate over all. An image is predicted by the expert in Q that the gate prefers.
Differs: g is normalized again over Q. Anchors are clients of very different class counts, which all clients upload, and
train when the cohort has them, not more often. Features are scaled to length sqrt(dim) for the gate.
"""

from dataclasses import replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from promptfleet.config import FederationConfig
from promptfleet.methods.experts.in_memory import updated
from promptfleet.methods.parts.anchors import with_anchors
from promptfleet.methods.parts.gates import gate_tensors
from promptfleet.methods.parts.hidden_gate import gate_logits, gate_shapes, init_gate
from promptfleet.methods.parts.prompt_method import PromptMethod
from promptfleet.methods.parts.prompts import context_shape, encode_frozen, init_context
from promptfleet.methods.parts.training import detached, leaves, train_steps
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
    UpTo,
    Work,
    World,
)


class FedJETsConfig(FederationConfig):
    """Configuration of FedJETs on prompts."""

    server_experts: int = Field(5, ge=1, description="M, experts that the server has (published: 5 or 10)")
    experts: int = Field(2, ge=1, description="K, experts that a client picks among them (published: 2)")
    gate_hidden: int = Field(64, ge=1, description="hidden units of the gate")
    gate_lr: float = Field(0.01, gt=0, description="learning rate of the gate (published: 0.001)")
    anchors: Literal["labels", "none"] = Field(
        "labels", description="anchor clients by their class counts, for up to half of the clients, or none"
    )

    @model_validator(mode="after")
    def _check_experts(self) -> "FedJETsConfig":
        if self.experts > self.server_experts:
            raise ValueError(
                f"experts={self.experts} must be at most server_experts={self.server_experts}: "
                "a client picks among the experts of the server"
            )
        return self


class FedJETs(PromptMethod):
    """Experts and a gate at the server.

    Server state: ``experts`` [M, tokens, width] and their ``text`` features [M, classes, dim], the gate ``gate.*`` and,
    with anchors, ``counts`` [clients, classes] and ``anchors`` [M], the client of each expert or -1. Clients keep
    nothing. Down: the gate, the expert that the client is the anchor of or -1, and the K experts that it fetches; the
    simulation attaches all M. Up: the fetched ``experts`` after training, their ``ids``, the gate and the class counts.
    """

    Config = FedJETsConfig
    context_names = ("experts",)

    def init_server(self, world: World, rng: np.random.Generator) -> State:
        config, dim = world.config, world.clip.tower.dim
        experts = torch.stack([init_context(world, rng) for _ in range(config.server_experts)])
        text = torch.stack([encode_frozen(world, expert) for expert in experts])
        state = {"experts": experts, "text": text, **init_gate(dim, config.gate_hidden, config.server_experts, rng)}
        if config.anchors == "labels":
            state["counts"] = torch.zeros(config.clients, len(world.class_names), dtype=torch.int32)
            state["anchors"] = torch.full((config.server_experts,), -1)
        return state

    def select(self, server: State, call: Call) -> dict[int, Message]:
        attached = {name: server[name] for name in ("experts", "text")}
        everyone = Message(gate_tensors(server), attached)
        if call.world.config.anchors == "none":
            return call.to_all(everyone)
        expert_of = {client: expert for expert, client in enumerate(server["anchors"].tolist())}
        return {
            client: replace(
                everyone, tensors={**everyone.tensors, "anchor_of": torch.tensor(expert_of.get(client, -1))}
            )
            for client in call.clients
        }

    def local_update(self, task: Task) -> Work[Update]:
        anchor_of = task.download.tensors.get("anchor_of", torch.tensor(-1))
        is_anchor = bool(anchor_of >= 0)
        ids = anchor_of.unsqueeze(0) if is_anchor else self.picked(task)
        fetched = {"experts": task.download.attached["experts"][ids]}
        experts, gate = leaves(fetched), leaves(gate_tensors(task.download.tensors))

        def loss(text: Tensor, batch: Examples) -> Tensor:
            if not is_anchor:
                return F.cross_entropy(self.mixture(task, gate, ids, text, batch.images), batch.labels)
            named = gate_logits(gate, self.features(task, batch.images))
            return self.cross_entropy(task, text[0], batch) + F.cross_entropy(named, ids.expand(len(batch)))

        metrics = yield from train_steps(
            task,
            optimizers=[
                self.optimizer(task, experts, task.config.prompt_lr),
                self.optimizer(task, gate, task.config.gate_lr),
            ],
            contexts=lambda: experts["experts"],
            loss=loss,
        )
        sent = {**detached(experts), "ids": ids, **detached(gate)}
        if task.config.anchors == "labels":
            sent["counts"] = F.one_hot(task.train.labels, len(task.world.class_names)).sum(dim=0).int()
        return Update(task.private, Message(sent), metrics, fetched)

    def picked(self, task: Task) -> Tensor:
        """Return the ids of the K experts that the gate prefers for all of the client's training images, best first."""
        gate, features = gate_tensors(task.download.tensors), self.features(task, task.train.images)
        scores = torch.softmax(gate_logits(gate, features), dim=1).sum(dim=0)
        return scores.argsort(descending=True, stable=True)[: task.config.experts]

    def mixture(self, task: Task, gate: State, ids: Tensor, text: Tensor, images: Images) -> Tensor:
        """Return sum_q g_q logits_q over the experts ``ids [K]`` of ``text [K, classes, dim]``, with g over ``ids``."""
        features = self.features(task, images)
        weights = torch.softmax(gate_logits(gate, features)[:, ids], dim=1)
        return (weights.T.unsqueeze(-1) * self._of_experts(task, features, text)).sum(dim=0)

    def _of_experts(self, task: Task, features: Tensor, text: Tensor) -> Tensor:
        return torch.stack([self.scores(task, features, one) for one in text])

    def uploads(self, world: World) -> dict[str, Spec]:
        config, most = world.config, UpTo(world.config.experts)
        shapes = gate_shapes(world.clip.tower.dim, config.gate_hidden, config.server_experts)
        specs = {"experts": Spec((most, *context_shape(world))), "ids": Spec((most,), torch.int64)}
        if config.anchors == "labels":
            specs["counts"] = Spec((len(world.class_names),), torch.int32)
        return {**specs, **{name: Spec(shape) for name, shape in shapes.items()}}

    def aggregate(self, server: State, arrived: Arrived) -> State:
        gate, trained = arrived.mean(names=gate_tensors(server)), {}
        for expert in range(arrived.world.config.server_experts):
            of_it = {
                client: Message({"context": upload.tensors["experts"][place]})
                for client, upload in arrived.uploads.items()
                for place, one in enumerate(upload.tensors["ids"].tolist())
                if one == expert
            }
            if of_it:
                trained[expert] = replace(arrived, uploads=of_it).mean()["context"]
        text = {expert: encode_frozen(arrived.world, context) for expert, context in trained.items()}
        state = {"experts": updated(server["experts"], trained), "text": updated(server["text"], text), **gate}
        if arrived.world.config.anchors == "labels":
            state["counts"] = updated(server["counts"], arrived.sent("counts"))
            state["anchors"] = with_anchors(server["anchors"], state["counts"])
        return state

    def personalize(self, task: Task) -> State:
        return {"ids": self.picked(task)}

    def predict(self, task: Task, images: Images) -> Tensor:
        ids, features = task.private["ids"], self.features(task, images)
        best = gate_logits(gate_tensors(task.download.tensors), features)[:, ids].argmax(dim=1)
        logits = self._of_experts(task, features, task.download.attached["text"][ids])
        return logits[best, torch.arange(len(images), device=best.device)]

    def describe(self, task: Task, images: Images) -> State:
        """Return the ``picked`` experts [K], best first, and the share of the images that each expert predicts [M]."""
        ids = task.private["ids"]
        best = gate_logits(gate_tensors(task.download.tensors), self.features(task, images))[:, ids].argmax(dim=1)
        shares = F.one_hot(ids[best], task.config.server_experts).float().mean(dim=0)
        return {"picked": ids, "expert_shares": shares}

    def reworded(self, task: Task, world: World) -> Work[Task]:
        text = yield Encode(task.download.attached["experts"])
        attached = {**task.download.attached, "text": text}
        return replace(task, world=world, download=replace(task.download, attached=attached))

    def server_model(self, task: Task) -> State:
        """Return all experts as the picked ones: the gate chooses among them for each image."""
        return {"ids": torch.arange(task.config.server_experts, device=task.world.device)}
