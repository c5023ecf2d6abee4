"""What methods without communication share: nothing goes up, and the server never changes."""

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import Field

from promptfleet.config import FederationConfig
from promptfleet.methods.protocol import Message, Method, State, World


class NoCommunication(Method):
    """Base of methods that a client could run all alone: what the server holds, if anything, follows from the seed."""

    def init_server(self, world: World, rng: np.random.Generator) -> State:
        return {}

    def select(
        self, world: World, server: State, cohort: Sequence[int], rng: np.random.Generator
    ) -> dict[int, Message]:
        return dict.fromkeys(cohort, Message(tensors={}, attached=server))

    def upload_shapes(self, world: World) -> dict[str, tuple[int, ...]]:
        return {}

    def aggregate(
        self,
        world: World,
        server: State,
        uploads: Mapping[int, Message],
        num_examples: Mapping[int, int],
        rng: np.random.Generator,
    ) -> State:
        return server


class SoloConfig(FederationConfig):
    """A federation whose clients train alone, all of them in each round until their budget is spent."""

    solo_epochs: int = Field(
        default_factory=lambda v: max(1, round(v["rounds"] * v["participation"] * v["local_epochs"])),
        ge=0,
        description="total local epochs per client; default: rounds * participation * local_epochs (published: 25)",
    )


def epochs_now(world: World, private: State) -> int:
    """Local epochs to train in this round, where ``epochs`` of the private state counts those done."""
    return min(world.config.local_epochs, world.config.solo_epochs - int(private["epochs"]))
