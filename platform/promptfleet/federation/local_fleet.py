"""A fleet in this very process, without Ray: for tests, for debugging, for tiny runs."""

from collections.abc import Mapping, Sequence

import torch

from promptfleet.config import FederationConfig
from promptfleet.data.feature_store import open_features
from promptfleet.data.partition import Partition
from promptfleet.federation.client import Client, Upload
from promptfleet.federation.fleet import Trained
from promptfleet.federation.prepare import Prepared
from promptfleet.federation.reports import Evaluation
from promptfleet.federation.server import Server
from promptfleet.methods import load_method
from promptfleet.methods.protocol import Message, State, World


class LocalFleet:
    """Clients take their turns one after the other, with the same number of threads as an actor has."""

    def __init__(self, prepared: Prepared):
        self._prepared = prepared
        self._store = open_features(prepared.features, verify=False)
        self._threads_before = torch.get_num_threads()

    def begin(self, config: FederationConfig, partition: Partition) -> None:
        torch.set_num_threads(config.runtime.threads_per_client)
        method = load_method(config.method)
        world = World(config, self._prepared.clip, self._prepared.class_names)
        self._server = Server(method, world)
        self._clients = [
            Client(client_id, method, world, self._store, split) for client_id, split in enumerate(partition.clients)
        ]

    def initial_states(self) -> dict[int, State]:
        return {client.id: client.initial_state() for client in self._clients}

    def select(self, round_index: int, cohort: Sequence[int]) -> dict[int, Message]:
        return self._server.select(round_index, cohort)

    def train(
        self, round_index: int, privates: Mapping[int, State], downloads: Mapping[int, Message]
    ) -> dict[int, Trained]:
        return {
            client: Trained(*self._clients[client].train(round_index, privates[client], download))
            for client, download in downloads.items()
        }

    def aggregate(self, round_index: int, uploads: Mapping[int, Upload]) -> dict[int, str]:
        return self._server.aggregate(round_index, uploads)

    def evaluate(
        self, round_index: int, privates: Mapping[int, State], downloads: Mapping[int, Message]
    ) -> list[Evaluation]:
        return [
            self._clients[client].evaluate(round_index, privates[client], download)
            for client, download in downloads.items()
        ]

    def fetch(self, handles: Sequence) -> list:
        return list(handles)

    def put(self, state: State) -> State:
        return state

    def server_state(self) -> State:
        return self._server.state

    def load_server_state(self, state: State) -> None:
        self._server.state = state

    def close(self) -> None:
        torch.set_num_threads(self._threads_before)
