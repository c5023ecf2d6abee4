"""DisPFL: every client trains a sparse part of the prompt under a mask of its own, and averages with a few peers.

Source: Dai, Shen, He, Tian, Tao: "DisPFL: Towards Communication-Efficient Personalized Federated Learning via
Decentralized Sparse Training", ICML 2022 (arXiv:2206.00187), and its code. P_i = P_0 + Delta_i, where Delta_i is zero
outside of the mask m_i. A client averages Delta coordinate by coordinate over those of its peers and itself whose mask
has it, Delta_i <- m_i * sum_k Delta_k / sum_k m_k, and trains it under the mask. Then the mask moves: the share
r(t) = anneal/2 (1 + cos(pi t / T)) of its entries goes, the smallest |Delta| first, and as many come, the largest
gradient first.
Differs: the step from a common start is sparse, that of a prompt, where a zero means nothing, or of the two matrices of
an image adapter. A prompt is one layer, and the matrices have transposed shapes, so all layers have the same density.
Gradients are not clipped, and the learning rate is constant. The server relays the last messages of peers and averages
nothing; clients outside of the cohort rest.
"""

from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from promptfleet.config import FederationConfig
from promptfleet.methods.experts.in_memory import updated
from promptfleet.methods.parts.image_adapter import adapted, init_adapter
from promptfleet.methods.parts.peers import Topology, peers_of
from promptfleet.methods.parts.prompt_method import PromptMethod
from promptfleet.methods.parts.prompts import encoded, init_context, local_batches
from promptfleet.methods.parts.sparse import dense
from promptfleet.methods.parts.sparse_layers import MIXED, entries, layers, lowest_of_layers, moving, shape_of
from promptfleet.methods.parts.training import detached, leaves, train_steps
from promptfleet.methods.protocol import (
    Arrived,
    Backward,
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
from promptfleet.seeding import stream


class DisPFLConfig(FederationConfig):
    """Configuration of DisPFL on the step from a common start."""

    target: Literal["prompt", "adapter"] = Field(
        "prompt", description="what is sparse: a prompt, or the matrices of a network of two layers on image features"
    )
    adapter_lr: float = Field(0.01, gt=0, description="learning rate of the adapter (published: 0.1)")
    adapter_width: int = Field(32, ge=1, description="hidden units of the adapter")
    density: float = Field(
        0.5,
        gt=0,
        le=1,
        description="share of each layer's numbers that a client trains and sends (published: 0.5)",
    )
    densities: Literal["equal", "mixed"] = Field(
        "equal", description="density for all clients, or 0.2, 0.4, 0.6, 0.8 and 1 in turn for weak and strong ones"
    )
    topology: Topology = Field(
        "random", description="peers that a client averages with: drawn in each round, the two next to it, or all"
    )
    peers: int = Field(
        default_factory=lambda values: min(3, values["clients"] - 1),
        ge=0,
        description="peers of a client in a round (random); default: 3, or all others (published: 10 of 100)",
    )
    anneal: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of the mask that moves after the first rounds, 0 at the end (published: 0.5)",
    )
    regrow: Literal["gradient", "random"] = Field(
        "gradient", description="entries that come into a mask: those with the largest gradient, or random ones"
    )
    initial_masks: Literal["same", "different"] = Field(
        "same", description="masks before round 1: one for all clients, or one each (published: same)"
    )

    @model_validator(mode="after")
    def _check_peers(self) -> "DisPFLConfig":
        if self.peers >= self.clients:
            raise ValueError(
                f"peers={self.peers} must be smaller than clients={self.clients}: "
                f"a client has {self.clients - 1} others to average with"
            )
        return self


class DisPFL(PromptMethod):
    """Sparse personal steps from a common start, which peers exchange.

    Server state: the start, ``context`` or the ``adapter.*``, and of each client what it sent last, ``pool.delta``
    [clients, tokens, width] or [clients, 2, numbers], and ``pool.mask``; an empty mask if nothing. Private state:
    ``delta``, the ``sent_mask`` it was trained under, and the next ``mask``. Up: the ``values`` under the ``mask``, and
    the mask as bits. Down: ``peer_values``, one peer's after the other's, and ``peer_masks``; the start follows from
    the seed, so it is attached and counts no bytes.
    """

    Config = DisPFLConfig

    def has_prompt(self, config: DisPFLConfig) -> bool:
        return config.target == "prompt"

    def init_server(self, world: World, rng: np.random.Generator) -> State:
        if world.config.target == "prompt":
            start = {"context": init_context(world, rng)}
        else:
            start = init_adapter(world.clip.tower.dim, world.config.adapter_width, rng)
        pool = torch.zeros(world.config.clients, *shape_of(world))
        return {**start, "pool.delta": pool, "pool.mask": pool.bool()}

    def init_client(self, world: World, client: int, rng: np.random.Generator) -> State:
        if world.config.initial_masks == "same":
            rng = stream(world.config.seed, "dispfl masks")
        delta = torch.zeros(shape_of(world))
        return {
            "delta": delta,
            "sent_mask": delta.bool(),
            "mask": lowest_of_layers(world, delta, entries(world, client), rng),
        }

    def select(self, server: State, call: Call) -> dict[int, Message]:
        start = {name: tensor for name, tensor in server.items() if not name.startswith("pool.")}
        if call.purpose == "evaluate":  # a client predicts with its own prompt
            return call.to_all(Message({}, start))
        config, downloads = call.world.config, {}
        sent = server["pool.mask"].flatten(1).any(dim=1)
        for client in call.clients:
            peers = [peer for peer in peers_of(call, client, config.topology, config.peers) if sent[peer]]
            masks = server["pool.mask"][peers]
            given = {"peer_values": server["pool.delta"][peers][masks], "peer_masks": masks}
            downloads[client] = Message(given, start)
        return downloads

    def local_update(self, task: Task) -> Work[Update]:
        config, mask = task.config, task.private["mask"]
        parameters = leaves({"delta": averaged(task) * mask})
        prompt = config.target == "prompt"
        metrics = yield from train_steps(
            task,
            optimizers=[self.optimizer(task, parameters, config.prompt_lr if prompt else config.adapter_lr)],
            contexts=(lambda: _context(task, parameters["delta"] * mask).unsqueeze(0)) if prompt else None,
            loss=lambda text, batch: self._loss(task, parameters["delta"] * mask, text, batch),
        )
        delta = detached(parameters)["delta"]
        private = {"delta": delta, "sent_mask": mask, "mask": (yield from self._moved(task, delta))}
        return Update(private, Message({"values": delta[mask], "mask": mask}), metrics)

    def _moved(self, task: Task, delta: Tensor) -> Work[Tensor]:
        """Return the mask after its entries of the smallest values went, and as many others came."""
        mask, count = task.private["mask"], moving(task)
        if count == 0:
            return mask
        kept = mask & ~lowest_of_layers(task.world, delta.abs().masked_fill(~mask, float("inf")), count, task.rng)
        gain = torch.zeros_like(delta)  # all the same: random entries come
        if task.config.regrow == "gradient":
            step = delta.clone().requires_grad_()
            text = (yield Encode(_context(task, step).unsqueeze(0))) if task.config.target == "prompt" else None
            yield Backward(self._loss(task, step, text, next(local_batches(task, epochs=1))))
            gain = step.grad.abs()
        return kept | lowest_of_layers(task.world, (-gain).masked_fill(kept, float("inf")), count, task.rng)

    def uploads(self, world: World) -> dict[str, Spec]:
        most = max(entries(world, client) for client in range(min(world.config.clients, len(MIXED))))
        return {"values": Spec((UpTo(most * layers(world)),)), "mask": Spec(shape_of(world), torch.bool)}

    def aggregate(self, server: State, arrived: Arrived) -> State:
        masks, values = arrived.sent("mask"), arrived.sent("values")
        deltas = {client: dense(values[client], mask) for client, mask in masks.items()}
        pool = {"pool.delta": updated(server["pool.delta"], deltas), "pool.mask": updated(server["pool.mask"], masks)}
        return {**server, **pool}

    def personalize(self, task: Task) -> Work[State]:
        if task.config.target == "prompt":
            return (yield from encoded(_context(task, task.private["delta"])))
        return {"delta": task.private["delta"], "text": task.world.clip.zero_shot_text}

    def reworded(self, task: Task, world: World) -> Work[Task]:
        if task.config.target == "prompt":
            return (yield from super().reworded(task, world))
        return replace(task, world=world, private={**task.private, "text": world.clip.zero_shot_text})

    def features(self, task: Task, images: Images) -> Tensor:
        """Return the features after the adapter, if there is one: its matrices are the start's and ``delta``."""
        features = super().features(task, images)
        if task.config.target == "prompt":
            return features
        adapter, (down, up) = dict(task.download.attached), task.private["delta"]
        adapter["adapter.down"] = adapter["adapter.down"] + down.view_as(adapter["adapter.down"])
        adapter["adapter.up"] = adapter["adapter.up"] + up.view_as(adapter["adapter.up"])
        return adapted(adapter, features)

    def _loss(self, task: Task, delta: Tensor, text: Tensor | None, batch: Examples) -> Tensor:
        """Return the loss at the start plus ``delta``; ``text [1, classes, dim]`` is that of a prompt."""
        if text is not None:
            return self.loss(task, _context(task, delta), text[0], batch)
        there = replace(task, private={**task.private, "delta": delta})
        return self.cross_entropy(there, task.world.clip.zero_shot_text, batch)


def averaged(task: Task) -> Tensor:
    """Return the mean of each coordinate over the client and its peers whose mask has it; 0 if none has."""
    given, own = task.download.tensors, task.private
    deltas = dense(given["peer_values"], given["peer_masks"]).sum(dim=0) + own["delta"]
    return deltas / (given["peer_masks"].sum(dim=0) + own["sent_mask"]).clamp(min=1)


def _context(task: Task, delta: Tensor) -> Tensor:
    return task.download.attached["context"] + delta
