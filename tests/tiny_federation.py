"""A federation of any method through the real Client and Server, with a replacement for CLIP of random weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from promptfleet.federation.client import Client
from promptfleet.federation.server import Server
from promptfleet.methods import config_class, load_method
from promptfleet.methods.parts.side_by_side import run_alone
from promptfleet.methods.parts.states import state_sha256
from promptfleet.methods.protocol import Examples, Message, Method, State, World
from tests.fakes import tiny_client, tiny_clip, tiny_examples, tiny_task, tiny_world

ALL = range(4)


@dataclass
class TinyFederation:
    """State of a federation after its rounds; client i trains on ``6 + 2 i`` examples."""

    method: Method
    world: World
    server: Server
    clients: dict[int, Client]
    privates: dict[int, State]
    history: list[State] = field(default_factory=list)  # the server's state after each round

    def run(self, cohorts: Sequence[Sequence[int]], order: Callable = sorted) -> "TinyFederation":
        for cohort in cohorts:
            round_index = len(self.history) + 1
            downloads = self.server.select(round_index, order(cohort))
            uploads = {}
            for client in order(cohort):
                trained = self.clients[client].train(round_index, self.privates[client], downloads[client])
                self.privates[client], uploads[client] = trained.private, trained
            assert self.server.aggregate(round_index, {client: uploads[client] for client in order(cohort)}) == {}
            self.history.append(self.server.state)
        return self

    @property
    def contexts(self) -> list[torch.Tensor]:
        """Return the global context after each round."""
        return [state["context"] for state in self.history]

    def examples(self, client: int) -> Examples:
        """Return the client's training examples."""
        return tiny_examples(self.world, 6 + 2 * client, seed=client)

    def download(self, client: int) -> Message:
        return self.server.select(len(self.history), [client])[client]

    def logits(self, client: int, count: int = 8) -> torch.Tensor:
        """Return logits of images that no client trained on, with the state that ``personalize`` gives."""
        download, images = self.download(client), tiny_examples(self.world, count, seed=77).images
        task = tiny_task(self.world, self.privates[client], download, self.examples(client))
        private = run_alone(self.world, self.method.personalize(task), "personalize")
        return self.method.predict(tiny_task(self.world, private, download).to_predict(), images)

    def sha256(self) -> str:
        return state_sha256(self.server.state, self.privates)


def tiny_federation(method: str = "pfedmoap", **config) -> TinyFederation:
    world = tiny_world(config_class=config_class(method), clip=tiny_clip(layers=1), method=method, **config)
    loaded = load_method(method)
    clients = {i: tiny_client(i, loaded, world) for i in range(world.config.clients)}
    privates = {i: client.initial_state() for i, client in clients.items()}
    return TinyFederation(loaded, world, Server(loaded, world), clients, privates)


def equal(a: State, b: State) -> bool:
    """Return True if two states are the same, bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
