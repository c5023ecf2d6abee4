"""Bases of methods without communication: clients upload nothing, and the server never changes."""

import numpy as np
from pydantic import Field

from promptfleet.config import FederationConfig
from promptfleet.methods.parts.prompt_method import PromptMethod
from promptfleet.methods.protocol import Arrived, Call, Message, Spec, State, Task, World


class NoCommunication(PromptMethod):
    """Base of methods that a client could run all alone: the server's state, if any, follows from the seed."""

    def init_server(self, world: World, rng: np.random.Generator) -> State:
        return {}

    def select(self, server: State, call: Call) -> dict[int, Message]:
        return call.to_all(Message(tensors={}, attached=server))

    def uploads(self, world: World) -> dict[str, Spec]:
        return {}

    def aggregate(self, server: State, arrived: Arrived) -> State:
        return server


class SoloConfig(FederationConfig):
    """Configuration of clients that train alone, all of them in each round until their budget is spent."""

    solo_epochs: int = Field(
        default_factory=lambda v: max(1, round(v["rounds"] * v["participation"] * v["local_epochs"])),
        ge=0,
        description="total local epochs per client; default: rounds * participation * local_epochs (published: 25)",
    )


class Solo(NoCommunication):
    """Base of methods whose clients train alone: all of them in every round."""

    Config = SoloConfig

    def participation(self, config: FederationConfig, round_index: int) -> float:
        return 1.0


def epochs_now(task: Task) -> int:
    """Return the local epochs of this round; ``epochs`` of the private state counts the done ones."""
    return min(task.config.local_epochs, task.config.solo_epochs - int(task.private["epochs"]))
