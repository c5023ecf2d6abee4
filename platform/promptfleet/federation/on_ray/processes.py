"""Processes of a fleet under Ray: one actor per bundle of a placement group, replaced when it dies."""

import time
from typing import Any

import ray
from ray import ObjectRef
from ray.exceptions import GetTimeoutError, RayActorError
from ray.util.placement_group import (
    PlacementGroup,
    get_current_placement_group,
    placement_group,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from promptfleet.errors import ResourceError
from promptfleet.federation.on_ray.actors import ClientActor, Frozen, ServerActor
from promptfleet.federation.resources import Shares

LEAVE_TIMEOUT_S = 5.0
OURS = "promptfleet.errors."  # prefix of Ray's names for an actor's own errors


class Processes:
    """A server and ``shares.client_actors`` client actors.

    Inside a Tune trial the trial's placement group is used, from ``first_bundle`` on, since its bundle 0 is the trial
    itself; elsewhere ``own_group`` makes one for server and clients.

    Raises on construction:
        ResourceError: they did not start within ``start_timeout_s``, or one could not, such as for want of memory.
    """

    def __init__(
        self,
        frozen: "ObjectRef[Frozen]",
        shares: Shares,
        *,
        start_timeout_s: float,
        own_group: bool,
        first_bundle: int = 1,
    ):
        self._frozen, self._shares = frozen, shares
        self._own_group: PlacementGroup | None = None
        self._group, self._first_bundle = get_current_placement_group(), first_bundle
        self.clients: list[Any] = []
        try:
            if own_group:
                self._group, self._first_bundle = placement_group(shares.bundles()[1:], strategy="SPREAD"), 0
                self._own_group = self._group
                ray.get(self._group.ready(), timeout=start_timeout_s)
            self.server = self._start_server()
            self.clients += [self._start_client(index) for index in range(shares.client_actors)]
            self._wait_until_up(time.monotonic() + start_timeout_s)
        except GetTimeoutError:
            self.close()
            raise ResourceError(
                f"a server and {shares.client_actors} client actors did not start within "
                f"runtime.start_timeout_s={start_timeout_s:g}; other work may be holding the cluster's resources"
            ) from None
        except BaseException as error:
            self.close()
            raise (_why_not(error) or error) from None

    def replace_server(self) -> None:
        """End the server's process if it lives, and start another in its bundle; returns before it is ready."""
        ray.kill(self.server)
        self.server = self._start_server()

    def replace_client(self, index: int) -> None:
        """Do the same for a client actor."""
        ray.kill(self.clients[index])
        self.clients[index] = self._start_client(index)

    def _wait_until_up(self, deadline: float) -> None:
        """Wait for every actor; one whose process died meanwhile is replaced. Raises GetTimeoutError after deadline."""
        starting = {actor.__ray_ready__.remote(): index for index, actor in enumerate([self.server, *self.clients])}
        while starting:
            ref, index = next(iter(starting.items()))
            del starting[ref]
            try:
                ray.get(ref, timeout=max(0.0, deadline - time.monotonic()))
            except RayActorError as error:
                if error.actor_init_failed or time.monotonic() > deadline:
                    raise  # its own code, not its process
                self.replace_client(index - 1) if index else self.replace_server()
                actor = self.clients[index - 1] if index else self.server
                starting[actor.__ray_ready__.remote()] = index

    def close(self) -> None:
        """Let every actor exit by itself, and end those that do not."""
        leaving = {actor.__ray_terminate__.remote(): actor for actor in self._all()}
        _, late = ray.wait(list(leaving), num_returns=len(leaving), timeout=LEAVE_TIMEOUT_S) if leaving else ([], [])
        for ref in late:
            ray.kill(leaving[ref])
        self.server, self.clients = None, []
        if self._own_group is not None:
            remove_placement_group(self._own_group)
            self._own_group = None

    def _all(self) -> list[Any]:
        return [actor for actor in (getattr(self, "server", None), *self.clients) if actor is not None]

    def _start_server(self) -> Any:
        return self._start(ServerActor, 0, num_cpus=self._shares.server_cpu, num_gpus=self._shares.server_gpu)

    def _start_client(self, index: int) -> Any:
        shares = self._shares
        return self._start(ClientActor, 1 + index, num_cpus=shares.client_cpu, num_gpus=shares.client_gpu)

    def _start(self, actor_class: type, place: int, **resources: float) -> Any:
        bundle = self._first_bundle + place
        strategy = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=bundle)
        options = {"max_restarts": 0, "scheduling_strategy": strategy, **resources}
        return ray.remote(actor_class).options(**options).remote(self._frozen)


def _why_not(error: BaseException) -> ResourceError | None:
    """Return the user's mistake that kept an actor from starting, if ``error`` is about one."""
    *_, reason = str(error).strip().splitlines() or [""]
    if isinstance(error, RayActorError) and reason.startswith(OURS):
        return ResourceError(reason.removeprefix(OURS).partition(": ")[2])
    return None
