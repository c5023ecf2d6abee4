"""MaxFL (IncFL): the server learns most from clients that the global prompt nearly appeals to.

Source: Cho, Jhunjhunwala, Li, Smith, Joshi, arXiv:2205.14840: "To Federate or Not To Federate: Incentivizing Client
Participation in Federated Learning" (IncFL, version 1), later "Maximizing Global Model Appeal in Federated Learning"
(MaxFL). A client's requirement r is the loss F of a prompt that it trained alone, from the start that all share. The
server minimizes the soft count of unhappy clients, sum_k sigmoid((F_k(P) - r_k) / t), so a client counts by
q_k = sigmoid'((F_k(P) - r_k) / t), and P <- P + server_lr (sum_k q_k P_k / sum_k q_k - P).
Differs: t is ours (published: 1); the prompt is uploaded in place of its step, which is the same; where all q vanish,
clients count equally; losses can be those of the validation part, as a requirement on few memorized shots is near 0. A
client that left the federation still gets and sends messages, which count for nothing.
"""

from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from promptfleet.methods.parts.no_communication import SoloConfig
from promptfleet.methods.parts.prompts import context_with_text, no_context_yet
from promptfleet.methods.promptfl import PromptFL, PromptFLConfig
from promptfleet.methods.protocol import Arrived, Call, Images, Message, Spec, State, Task, Update, Work, World

_MOST = 0.25  # of a weight: a client with F = r
_TOO_SMALL = 1e-6  # sum of weights


class MaxFLConfig(PromptFLConfig, SoloConfig):
    """A federation that runs MaxFL. ``solo_epochs`` are those of the prompt that a client trains alone."""

    appeal_temperature: float = Field(
        0.2, gt=0, description="t, the excess loss within which a client counts (published: 1)"
    )
    server_lr: float = Field(1.0, gt=0, description="step of the server towards the average prompt")
    judged_on: Literal["validation", "train"] = Field(
        "validation", description="examples of the losses that a client compares (published: train)"
    )
    prediction: Literal["preferred", "global"] = Field(
        "preferred", description="predict with the prompt of less loss, or always with the global one"
    )
    patience: int = Field(
        0,
        ge=0,
        description="rounds in a row without appeal after which a client leaves for good; 0: all stay",
    )


class MaxFL(PromptFL):
    """PromptFL that weighs clients by how near the global prompt is to their requirement.

    Server state: ``context``, its ``text`` features, and ``start``, the first context. Private state: ``context``, the
    prompt that the client trained alone in its first round, its ``text``, its loss ``requirement``, ``participations``
    and how many of them in a row were ``without_appeal``. Down: ``context``; the start follows from the seed. Up:
    ``context`` and the weight ``appeal``.
    """

    Config = MaxFLConfig

    def init_server(self, world: World, rng: np.random.Generator) -> State:
        server = super().init_server(world, rng)
        return {**server, "start": server["context"]}

    def init_client(self, world: World, client: int, rng: np.random.Generator) -> State:
        return {**no_context_yet(world), "requirement": torch.zeros(()), "without_appeal": torch.tensor(0)}

    def select(self, server: State, call: Call) -> dict[int, Message]:
        return call.to_all(Message({"context": server["context"]}, {name: server[name] for name in ("text", "start")}))

    def local_update(self, task: Task) -> Work[Update]:
        if 0 < task.config.patience <= task.private["without_appeal"]:
            nothing = {"context": task.download.tensors["context"], "appeal": torch.zeros(())}
            return Update(task.private, Message(nothing), {"left": 1.0})
        trained = yield from self.train_context(task, task.download.tensors["context"])
        private = {**task.private, "participations": task.private["participations"] + 1}
        if task.private["participations"] == 0:
            private |= yield from self._train_alone(task)
        excess = self._judge(task, task.download.attached["text"]) - private["requirement"]
        weight = appeal(excess / task.config.appeal_temperature)
        private["without_appeal"] = torch.where(excess < 0, 0, private["without_appeal"] + 1)
        metrics = {"appeals": float(excess < 0), "appeal_weight": float(weight), "left": 0.0}
        return Update(private, Message({"context": trained.context, "appeal": weight}), {**trained.metrics, **metrics})

    def uploads(self, world: World) -> dict[str, Spec]:
        return {**super().uploads(world), "appeal": Spec((), trained=False)}

    def aggregate(self, server: State, arrived: Arrived) -> State:
        weights = {client: float(weight.clamp(0, _MOST)) for client, weight in arrived.sent("appeal").items()}
        if arrived.world.config.patience and any(weights.values()):  # no vote for clients that left
            arrived = replace(
                arrived, uploads={client: arrived.uploads[client] for client in weights if weights[client]}
            )
        mean = arrived.mean(weights if sum(weights.values()) > _TOO_SMALL else "equal", ["context"])["context"]
        context = torch.lerp(server["context"], mean, arrived.world.config.server_lr)
        return {**context_with_text(arrived.world, context), "start": server["start"]}

    def personalize(self, task: Task) -> State:
        """Judge the present global prompt, and keep the client's own only if that is preferred."""
        private = {**task.private, "global_loss": self._judge(task, task.download.attached["text"])}
        if task.config.prediction == "preferred" and bool(private["global_loss"] > private["requirement"]):
            return private
        return {name: tensor for name, tensor in private.items() if name not in ("context", "text")}

    def describe(self, task: Task, images: Images) -> State:
        """Return ``appeals [1]``, 1 if the global prompt has less loss than the one trained alone; none before that."""
        if task.private["participations"] == 0:
            return {}
        return {"appeals": (task.private["global_loss"] < task.private["requirement"]).float().unsqueeze(0)}

    def _train_alone(self, task: Task) -> Work[State]:
        """Train a prompt from the common start; return it with its text features and its loss."""
        alone = yield from self.train_context(task, task.download.attached["start"], epochs=task.config.solo_epochs)
        return {"context": alone.context, "text": alone.text, "requirement": self._judge(task, alone.text)}

    @torch.no_grad()
    def _judge(self, task: Task, text: Tensor) -> Tensor:
        """Return F, the loss of class text features on all of the client's examples to judge by."""
        use_train = task.config.judged_on == "train" or len(task.val) == 0
        return self.cross_entropy(task, text, task.train if use_train else task.val)


def appeal(excess: Tensor) -> Tensor:
    """Return q = sigmoid(z) sigmoid(-z), at most 1/4, stable for any z."""
    return torch.sigmoid(excess) * torch.sigmoid(-excess)
