"""PromptFL + FedPer: the first tokens of the prompt are shared, the last ones stay with the client.

Source: Arivazhagan et al., "Federated Learning with Personalization Layers", arXiv:1912.00818. P = [P_sh ; P_pr], both
trained together, P_sh averaged. Half and half, as in a public port to prompts; the pFedMoAP paper does not say.
"""

from math import prod

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from promptfleet.config import FederationConfig
from promptfleet.methods.parts.prompt_method import PromptMethod
from promptfleet.methods.parts.prompts import context_shape, encoded, init_context
from promptfleet.methods.protocol import Arrived, Call, Message, Spec, State, Task, Update, Work, World


class FedPerConfig(FederationConfig):
    """Configuration of FedPer on the tokens of a prompt."""

    private_tokens: int = Field(
        default_factory=lambda values: values["prompt_length"] // 2,
        ge=0,
        description="number of context tokens that stay with the client; default: half of prompt_length",
    )

    @model_validator(mode="after")
    def _check(self) -> "FedPerConfig":
        if self.private_tokens > self.prompt_length:
            raise ValueError(f"private_tokens={self.private_tokens} exceeds prompt_length={self.prompt_length}")
        return self


class FedPer(PromptMethod):
    """Averaged tokens and private tokens of one prompt.

    Server state: ``shared`` [tokens, width], and ``private``, the start of all clients' private tokens. Private state:
    ``private`` [tokens, width], ``participations``. Down and up: ``shared``; the start follows from the seed, so it is
    attached and counts no bytes. With class-specific contexts all have ``classes`` in front.
    """

    Config = FedPerConfig
    context_names = ("shared", "private")

    def init_server(self, world: World, rng: np.random.Generator) -> State:
        return _split(world, init_context(world, rng))

    def init_client(self, world: World, client: int, rng: np.random.Generator) -> State:
        private = _split(world, torch.zeros(context_shape(world)))["private"]
        return {"private": private, "participations": torch.tensor(0)}

    def select(self, server: State, call: Call) -> dict[int, Message]:
        return call.to_all(Message({"shared": server["shared"]}, {"private": server["private"]}))

    def local_update(self, task: Task) -> Work[Update]:
        parts, metrics = yield from self.train_parts(task, _parts(task), _joined)
        next_private = {"private": parts["private"], "participations": task.private["participations"] + 1}
        return Update(next_private, Message({"shared": parts["shared"]}), metrics)

    def uploads(self, world: World) -> dict[str, Spec]:
        *before, _, width = context_shape(world)
        return {"shared": Spec((*before, world.config.prompt_length - world.config.private_tokens, width))}

    def trained_parameters(self, world: World) -> int:
        return prod(context_shape(world))

    def aggregate(self, server: State, arrived: Arrived) -> State:
        return {**server, **arrived.mean()}

    def personalize(self, task: Task) -> Work[State]:
        return (yield from encoded(_joined(_parts(task))))


def _split(world: World, context: Tensor) -> State:
    """Return the shared and the private tokens of a context."""
    private = world.config.private_tokens
    shared, own = context.split([world.config.prompt_length - private, private], dim=-2)
    return {"shared": shared.clone(), "private": own.clone()}


def _parts(task: Task) -> State:
    """Return the downloaded shared tokens and the client's own, or their start if it never trained."""
    own = task.private if task.private["participations"] > 0 else task.download.attached
    return {"shared": task.download.tensors["shared"], "private": own["private"]}


def _joined(parts: State) -> Tensor:
    return torch.cat([parts["shared"], parts["private"]], dim=-2)
