"""A fleet of Ray actors: one for the server, one for each client."""

from collections.abc import Mapping, Sequence
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
from promptfleet.federation.fleet import Trained
from promptfleet.federation.prepare import Prepared
from promptfleet.federation.reports import Evaluation
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
            features=str(prepared.features),
            class_names=prepared.class_names,
        )
    )


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
        pending = [self._server.begin.remote(config)]
        pending += [
            actor.begin.remote(config, client, split)
            for client, (actor, split) in enumerate(zip(self._clients, partition.clients, strict=True))
        ]
        ray.get(pending)

    def initial_states(self) -> dict[int, ObjectRef]:
        return {client: actor.initial_state.remote() for client, actor in enumerate(self._clients)}

    def select(self, round_index: int, cohort: Sequence[int]) -> dict[int, ObjectRef]:
        cohort = list(cohort)
        refs = self._server.select.options(num_returns=len(cohort)).remote(round_index, cohort)
        return dict(zip(cohort, refs if len(cohort) > 1 else [refs], strict=True))

    def train(
        self, round_index: int, privates: Mapping[int, ObjectRef], downloads: Mapping[int, ObjectRef]
    ) -> dict[int, Trained]:
        return {
            client: Trained(
                *self._clients[client].train.options(num_returns=3).remote(round_index, privates[client], download)
            )
            for client, download in downloads.items()
        }

    def aggregate(self, round_index: int, uploads: Mapping[int, ObjectRef]) -> dict[int, str]:
        return ray.get(self._server.aggregate.remote(round_index, list(uploads), *uploads.values()))

    def evaluate(
        self, round_index: int, privates: Mapping[int, ObjectRef], downloads: Mapping[int, ObjectRef]
    ) -> list[Evaluation]:
        return ray.get(
            [
                self._clients[client].evaluate.remote(round_index, privates[client], download)
                for client, download in downloads.items()
            ]
        )

    def fetch(self, handles: Sequence[ObjectRef]) -> list[Any]:
        return [to_tensors(value) if isinstance(value, dict) else value for value in ray.get(list(handles))]

    def put(self, state: State) -> ObjectRef:
        return ray.put(to_arrays(state))

    def server_state(self) -> State:
        return to_tensors(ray.get(self._server.state.remote()))

    def load_server_state(self, state: State) -> None:
        ray.get(self._server.load_state.remote(to_arrays(state)))

    def whereabouts(self) -> list[Mapping[str, Any]]:
        """Where each client's actor runs, by client id."""
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
