"""A fleet in this very process, without Ray: for tests, for debugging, for tiny runs."""

from collections.abc import Iterable, Mapping, Sequence

import torch

from promptfleet.config import FederationConfig
from promptfleet.data.partition import Partition
from promptfleet.federation.client import Upload
from promptfleet.federation.client_group import ClientGroup
from promptfleet.federation.fleet import CohortUpdate
from promptfleet.federation.prepare import Prepared
from promptfleet.federation.reports import Evaluation, TrainReport
from promptfleet.federation.server import Server
from promptfleet.methods import load_method
from promptfleet.methods.protocol import Message, State, World


class LocalFleet:
    """All clients in one group, with the same number of threads as an actor has."""

    def __init__(self, prepared: Prepared):
        self._prepared = prepared
        self._store = prepared.open_store()
        self._threads_before = torch.get_num_threads()

    def begin(self, config: FederationConfig, partition: Partition) -> None:
        torch.set_num_threads(config.runtime.threads_per_client)
        world = World(config, self._prepared.clip, self._prepared.class_names)
        self._server = Server(load_method(config.method), world)
        self._group = ClientGroup(world, self._store, dict(enumerate(partition.clients)))

    def initial_states(self) -> dict[int, State]:
        return self._group.initial_states()

    def select(self, round_index: int, cohort: Sequence[int]) -> dict[int, Message]:
        return self._server.select(round_index, cohort)

    def train(self, round_index: int, privates: Mapping[int, State], downloads: Mapping[int, Message]) -> CohortUpdate:
        trained = self._group.train(round_index, privates, downloads)
        return CohortUpdate(
            privates={client: one.private for client, one in trained.items()},
            uploads={client: one.upload for client, one in trained.items()},
            reports=[one.report for one in trained.values()],
        )

    def aggregate(self, round_index: int, uploads: Mapping[int, Upload]) -> dict[int, str]:
        return self._server.aggregate(round_index, uploads)

    def evaluate(
        self, round_index: int, privates: Mapping[int, State], downloads: Mapping[int, Message]
    ) -> list[Evaluation]:
        return self._group.evaluate(round_index, privates, downloads)

    def reports(self, reports: list[TrainReport]) -> list[TrainReport]:
        return reports

    def fetch(self, privates: Iterable[State]) -> list[State]:
        return list(privates)

    def put(self, state: State) -> State:
        return state

    def server_state(self) -> State:
        return self._server.state

    def load_server_state(self, state: State) -> None:
        self._server.state = state

    def close(self) -> None:
        torch.set_num_threads(self._threads_before)
