"""Fleet in this very process, without Ray: for tests, for debugging, for tiny runs."""

import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch

from promptfleet.config import FederationConfig
from promptfleet.data.partition import Partition
from promptfleet.devices import choose_device, set_arithmetic
from promptfleet.federation.client import ClientResult
from promptfleet.federation.client_examples import public_examples
from promptfleet.federation.client_group import ClientGroup
from promptfleet.federation.evaluation.foreign_sets import foreign_sets
from promptfleet.federation.evaluation.schedule import Plan
from promptfleet.federation.evaluation.scores import Evaluation
from promptfleet.federation.evaluation.shared_sets import SharedParts
from promptfleet.federation.failures import Failure, Failures
from promptfleet.federation.fleet import CohortUpdate, Intake
from promptfleet.federation.prepare import Prepared
from promptfleet.federation.reports import Event
from promptfleet.federation.resources import server_share
from promptfleet.federation.server import Server
from promptfleet.federation.server_rows import KeptRows
from promptfleet.methods import load_method
from promptfleet.methods.protocol import Message, Purpose, State

T = TypeVar("T")


class LocalFleet:
    """Fleet with all clients in one group, and as many threads as an actor has."""

    def __init__(self, prepared: Prepared):
        self._prepared = prepared
        self._store = prepared.open_store()
        self._threads_before = torch.get_num_threads()

    def begin(
        self, config: FederationConfig, partition: Partition, upload_noise: float = 0.0, rows: Path | None = None
    ) -> None:
        torch.set_num_threads(config.runtime.threads_per_client)
        device = choose_device(config.runtime.device)
        set_arithmetic(device, tf32=config.precision == "tf32")
        prepared = self._prepared.to(device)
        there = replace(prepared.world(config), upload_noise=upload_noise)
        servers = there if server_share(config) else replace(self._prepared.world(config), upload_noise=upload_noise)
        public = public_examples(servers, self._store, partition.public)
        self._server = Server(load_method(config.method), replace(servers, rows=rows and KeptRows(rows), public=public))
        splits, everyone = dict(enumerate(partition.clients)), SharedParts.of(partition)
        foreign = foreign_sets(
            config,
            prepared.clip,
            prepared.class_names,
            self._store,
            partition.new,
            prepared.others,
            image_tower=prepared.image_tower,
        )
        self._group = ClientGroup(there, self._store, splits, everyone, foreign)
        self._failures = Failures(config.runtime)
        self._clients = range(config.clients)

    def initial_states(self) -> dict[int, State]:
        return self._group.initial_states(self._clients)

    def select(self, round_index: int, cohort: Sequence[int], purpose: Purpose = "train") -> dict[int, Message]:
        return self._server.select(round_index, cohort, purpose)

    def train(self, round_index: int, privates: Mapping[int, State], downloads: Mapping[int, Message]) -> CohortUpdate:
        def work(clients: Sequence[int]) -> Mapping[int, ClientResult]:
            return self._group.train(round_index, privates, {client: downloads[client] for client in clients})

        trained, dropped = self._finished("train", sorted(privates), work, may_drop=True)
        return CohortUpdate(
            privates={client: one.private for client, one in trained.items()},
            uploads={client: one.for_server() for client, one in trained.items()},
            reports=[one.report for one in trained.values()],
            dropped=dropped,
        )

    def aggregate(self, round_index: int, uploads: Mapping[int, ClientResult]) -> None:
        rejected = self._server.aggregate(round_index, uploads)
        self._intake = Intake(rejected, self._server.excluded())

    def evaluate(
        self, round_index: int, privates: Mapping[int, State], downloads: Mapping[int, Message], plan: Plan
    ) -> list[Evaluation]:
        def work(clients: Sequence[int]) -> Mapping[int, Evaluation]:
            chosen = {client: downloads[client] for client in clients}
            return {one.client: one for one in self._group.evaluate(round_index, privates, chosen, plan)}

        evaluations, _ = self._finished("evaluate", sorted(downloads.keys() & privates.keys()), work)
        return list(evaluations.values())

    def intake(self) -> Intake:
        return self._intake

    def server_state(self) -> State:
        return self._server.state

    def load_server_state(self, state: State) -> None:
        self._server.load(state)

    def fetch(self, server: State, privates: Mapping[int, State]) -> tuple[State, dict[int, State]]:
        return server, dict(privates)

    def put(self, privates: Mapping[int, State]) -> dict[int, State]:
        return dict(privates)

    def repack(self, privates: Mapping[int, State]) -> dict[int, State]:
        return dict(privates)

    def take_events(self) -> list[Event]:
        return self._failures.take()

    def close(self) -> None:
        torch.set_num_threads(self._threads_before)

    def _finished(
        self, stage: str, clients: Sequence[int], work: Callable[[Sequence[int]], Mapping[int, T]], *, may_drop=False
    ) -> tuple[dict[int, T], dict[int, str]]:
        """Return ``work`` for all clients or, if that raises, for each alone; and the dropped ones with reasons."""
        done: dict[int, T] = {}
        dropped: dict[int, str] = {}
        waiting = deque([(list(clients), 0)] if clients else [])
        while waiting:
            group, failed_before = waiting.popleft()
            try:
                done |= work(group)
            except Exception as error:
                failure = Failure.of(error, traceback.format_exc())
                if len(group) > 1:
                    self._failures.record(stage, group, failure.what, "done again one by one")
                    waiting.extend(([client], 0) for client in group)
                elif self._failures.do_again(stage, group[0], failure, failed_before, may_drop=may_drop):
                    waiting.appendleft((group, failed_before + 1))
                else:
                    dropped[group[0]] = failure.what
        return done, dropped
