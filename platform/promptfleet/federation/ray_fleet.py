"""A fleet of Ray actors: one for the server, and one for each client or group of clients."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray import ObjectRef
from ray.exceptions import GetTimeoutError
from ray.util.placement_group import (
    PlacementGroup,
    get_current_placement_group,
    placement_group,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from promptfleet.config import FederationConfig
from promptfleet.data.partition import Partition
from promptfleet.errors import ResourceError
from promptfleet.federation.actors import ClientActor, Frozen, ServerActor
from promptfleet.federation.fleet import CohortUpdate
from promptfleet.federation.prepare import Prepared
from promptfleet.federation.reports import Evaluation, TrainReport
from promptfleet.federation.resources import Shares
from promptfleet.federation.shared_memory import pack
from promptfleet.federation.wire import to_arrays, to_tensors
from promptfleet.methods.protocol import State

LEAVE_TIMEOUT_S = 5.0


def put_frozen(prepared: Prepared) -> ObjectRef:
    """Put the frozen inputs into the object store, once for all actors of all federations."""
    return ray.put(
        Frozen(
            packed=pack(prepared.clip.tensors()),
            settings=prepared.clip.settings(),
            files={kind: str(path) for kind, path in prepared.files().items()},
            class_names=prepared.class_names,
            domain_names=prepared.domain_names,
        )
    )


@dataclass(frozen=True)
class Part:
    """One client actor's share of a cohort: the clients, ascending, and a reference to what is sent to them."""

    actor: int
    clients: Sequence[int]
    downloads: ObjectRef


class RayFleet:
    """Actors in one placement group, each in a bundle of its own; handles are references into the object store.

    Inside a Tune trial the trial's placement group is used, whose first bundle is the trial itself; elsewhere
    ``own_group`` makes one for server and clients.
    """

    def __init__(self, frozen: ObjectRef, shares: Shares, *, start_timeout_s: float, own_group: bool):
        self.shares = shares
        self._own_group: PlacementGroup | None = None
        self._actors: list[Any] = []
        try:
            group, first = get_current_placement_group(), 1
            if own_group:
                group, first = placement_group(shares.bundles()[1:], strategy="PACK"), 0
                self._own_group = group
                ray.get(group.ready(), timeout=start_timeout_s)

            def start(actor_class: type, bundle: int, **resources: float) -> Any:
                strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle)
                options = {"max_restarts": 0, "scheduling_strategy": strategy, **resources}
                self._actors.append(ray.remote(actor_class).options(**options).remote(frozen))
                return self._actors[-1]

            self._server = start(ServerActor, first, num_cpus=shares.server_cpu)
            self._clients = [
                start(ClientActor, first + 1 + client, num_cpus=shares.client_cpu, num_gpus=shares.client_gpu)
                for client in range(shares.client_actors)
            ]
            ray.get([actor.__ray_ready__.remote() for actor in self._actors], timeout=start_timeout_s)
        except GetTimeoutError:
            self.close()
            raise ResourceError(
                f"a server and {shares.client_actors} client actors did not start within "
                f"runtime.start_timeout_s={start_timeout_s:g}; other work may be holding the cluster's resources"
            ) from None
        except BaseException:
            self.close()
            raise

    def begin(self, config: FederationConfig, partition: Partition) -> None:
        self._packing = config.runtime.clients_per_actor
        self._groups = self._by_actor(range(config.clients))
        pending = [self._server.begin.remote(config)]
        for actor, clients in self._groups.items():
            splits = {client: partition.clients[client] for client in clients}
            pending.append(self._clients[actor].begin.remote(config, splits))
        ray.get(pending)

    def initial_states(self) -> dict[int, ObjectRef]:
        states = {}
        for actor, clients in self._groups.items():
            refs = self._clients[actor].initial_states.options(num_returns=len(clients)).remote()
            states |= dict(zip(clients, refs if len(clients) > 1 else [refs], strict=True))
        return states

    def select(self, round_index: int, cohort: Sequence[int]) -> list[Part]:
        groups = self._by_actor(cohort)
        refs = self._server.select.options(num_returns=len(groups)).remote(round_index, list(groups.values()))
        refs = refs if len(groups) > 1 else [refs]
        return [Part(actor, clients, ref) for (actor, clients), ref in zip(groups.items(), refs, strict=True)]

    def train(self, round_index: int, privates: Mapping[int, ObjectRef], downloads: Sequence[Part]) -> CohortUpdate:
        next_privates, uploads, reports = {}, [], []
        for part in downloads:
            train = self._clients[part.actor].train.options(num_returns=2 + len(part.clients))
            upload, report, *refs = train.remote(
                round_index, part.downloads, *[privates[client] for client in part.clients]
            )
            uploads.append(upload)
            reports.append(report)
            next_privates |= dict(zip(part.clients, refs, strict=True))
        return CohortUpdate(next_privates, uploads, reports)

    def aggregate(self, round_index: int, uploads: Sequence[ObjectRef]) -> dict[int, str]:
        return ray.get(self._server.aggregate.remote(round_index, *uploads))

    def evaluate(
        self, round_index: int, privates: Mapping[int, ObjectRef], downloads: Sequence[Part]
    ) -> list[Evaluation]:
        return _joined(
            [
                self._clients[part.actor].evaluate.remote(
                    round_index, part.downloads, *[privates[client] for client in part.clients]
                )
                for part in downloads
            ]
        )

    def reports(self, reports: Sequence[ObjectRef]) -> list[TrainReport]:
        return _joined(reports)

    def fetch(self, privates: Iterable[ObjectRef]) -> list[State]:
        return [to_tensors(state) for state in ray.get(list(privates))]

    def put(self, state: State) -> ObjectRef:
        return ray.put(to_arrays(state))

    def server_state(self) -> State:
        return to_tensors(ray.get(self._server.state.remote()))

    def load_server_state(self, state: State) -> None:
        ray.get(self._server.load_state.remote(to_arrays(state)))

    def whereabouts(self) -> list[Mapping[str, Any]]:
        """Where each client actor runs, in the order of the clients they host."""
        return ray.get([actor.whereabouts.remote() for actor in self._clients])

    def close(self) -> None:
        """Let every actor leave by itself, and end those that do not."""
        leaving = {actor.__ray_terminate__.remote(): actor for actor in self._actors}
        _, late = ray.wait(list(leaving), num_returns=len(leaving), timeout=LEAVE_TIMEOUT_S) if leaving else ([], [])
        for ref in late:
            ray.kill(leaving[ref])
        self._actors = []
        if self._own_group is not None:
            remove_placement_group(self._own_group)
            self._own_group = None

    def _by_actor(self, clients: Iterable[int]) -> dict[int, list[int]]:
        """Clients of one actor are neighbours: ids 0..n-1 live in the first one, and so on."""
        groups: dict[int, list[int]] = {}
        for client in sorted(clients):
            groups.setdefault(client // self._packing, []).append(client)
        return groups


def _joined(refs: Sequence[ObjectRef]) -> list[Any]:
    return [item for items in ray.get(list(refs)) for item in items]
