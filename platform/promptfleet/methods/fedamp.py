"""PromptFL + FedAMP: the server mixes a cloud prompt for every client, mostly from prompts that are near its own.

Source: Huang et al., "Personalized Cross-Silo Federated Learning on Non-IID Data", arXiv:2007.03797:
u_i = (1 - sum_j xi_ij) w_i + sum_j xi_ij w_j, with xi_ij = alpha/sigma exp(-||w_i - w_j||^2 / sigma); locally
CE + lambda/(2 alpha) ||P - u_i||^2. Differs: sigma is the median squared distance between pooled prompts, so that it
needs no scale of its own, and alpha/sigma is ``cloud_share`` divided by the number of others, so that weights are never
negative; lambda/alpha is one number, ``prox``. Distances are squared and the penalty has a gradient, unlike in PFLlib.
"""

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from promptfleet.config import FederationConfig
from promptfleet.methods.experts.in_memory import updated
from promptfleet.methods.parts.prompts import context_with_text, init_context, no_context_yet
from promptfleet.methods.promptfl import PromptFL
from promptfleet.methods.protocol import Arrived, Call, Examples, Message, State, Task, Update, Work, World


class FedAMPConfig(FederationConfig):
    """Configuration of FedAMP on prompts."""

    cloud_share: float = Field(
        0.2, ge=0, le=1, description="weight of all other clients together in a cloud prompt, if all prompts were equal"
    )
    prox: float = Field(
        0.01, ge=0, description="weight of the pull towards the cloud prompt; stable below 2 / prompt_lr"
    )


class FedAMP(PromptFL):
    """Attentive message passing between prompts.

    Server state: ``context``, the start of all clients, its ``text`` features, and every client's last prompt
    ``pool.context`` [clients, tokens, width] with ``pool.trained`` [clients], true if it has one. Private state:
    ``context``, its ``text``, ``participations``. Down to train: the cloud prompt ``context``; up: ``context``. An
    evaluation needs no download.
    """

    Config = FedAMPConfig

    def init_server(self, world: World, rng: np.random.Generator) -> State:
        context = init_context(world, rng)
        return {
            **context_with_text(world, context),
            "pool.context": context.repeat(world.config.clients, *[1] * context.dim()),
            "pool.trained": torch.zeros(world.config.clients, dtype=torch.bool),
        }

    def init_client(self, world: World, client: int, rng: np.random.Generator) -> State:
        return no_context_yet(world)

    def select(self, server: State, call: Call) -> dict[int, Message]:
        if call.purpose == "evaluate":  # a client predicts with its own prompt, or with its start
            return call.to_all(Message({}, {name: server[name] for name in ("context", "text")}))
        pool = server["pool.context"]
        weights = cloud_weights(pool, server["pool.trained"], call.world.config.cloud_share)
        return {
            client: Message({"context": cloud_prompt(pool, weights[client], client)}, {"text": server["text"]})
            for client in call.clients
        }

    def loss(self, task: Task, context: Tensor, text: Tensor, batch: Examples) -> Tensor:
        away = context - task.download.tensors["context"]
        return super().loss(task, context, text, batch) + task.config.prox / 2 * away.square().sum()

    def local_update(self, task: Task) -> Work[Update]:
        trained = yield from self.train_context(task, task.download.tensors["context"])
        return Update(trained.kept(task.private), Message({"context": trained.context}), trained.metrics)

    def aggregate(self, server: State, arrived: Arrived) -> State:
        contexts = arrived.sent("context")
        trained = updated(server["pool.trained"], dict.fromkeys(contexts, torch.tensor(True)))
        return {**server, "pool.context": updated(server["pool.context"], contexts), "pool.trained": trained}

    server_model = None  # a cloud prompt is of one client


def cloud_weights(pool: Tensor, trained: Tensor, share: float) -> Tensor:
    """Return weights ``[clients, clients]`` of each column's prompt in each row's cloud prompt.

    Rows sum to one, no weight is < 0.

    Only ``trained`` prompts count for others. Without two of them that differ there is nothing to compare, and every
    cloud prompt is the client's own.
    """
    flat = pool.double().flatten(1)
    squared = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist").square()
    senders = trained.nonzero().squeeze(1)
    between = squared[senders][:, senders]
    pairs = between[tuple(torch.triu_indices(len(senders), len(senders), 1))]
    own = torch.eye(len(pool), dtype=torch.float64)
    if not (pairs > 0).any():
        return own
    others = trained.double() * (1 - own)
    attention = others * torch.exp(-squared / pairs[pairs > 0].median())
    attention = attention * share / others.sum(dim=1, keepdim=True).clamp(min=1)
    return attention + torch.diag(1 - attention.sum(dim=1))


def cloud_prompt(pool: Tensor, weights: Tensor, client: int) -> Tensor:
    """Return the mean of ``pool [clients, ...]`` by one row of ``cloud_weights``, as a step from the client's own."""
    own = pool[client].double()
    return (own + torch.tensordot(weights, pool.double() - own, dims=1)).to(pool.dtype)
