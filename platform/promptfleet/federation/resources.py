"""How much of a machine or cluster each process of a federation takes, and whether it fits at all.

Ray waits for ever for what it cannot place, so everything is checked before anything starts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from promptfleet.config import FederationConfig
from promptfleet.errors import ResourceError

DEFAULT_GPU_SHARE = 0.1
LARGEST_AUTO_CPU_SHARE = 0.1
PRECISION = 10_000  # Ray counts in ten-thousandths


@dataclass(frozen=True)
class Node:
    """What one machine of the cluster offers; ``has_storage`` says whether ``storage.path`` is there."""

    cpus: float
    gpus: float
    address: str = "127.0.0.1"
    has_storage: bool = True


@dataclass(frozen=True)
class Shares:
    """What each process of one federation takes: the one that runs the rounds, the server, each client's actor."""

    driver_cpu: float
    server_cpu: float
    client_cpu: float
    client_gpu: float
    client_actors: int

    def bundles(self) -> list[dict[str, float]]:
        """One placement bundle per process: driver, server, clients."""
        client = {"CPU": self.client_cpu} | ({"GPU": self.client_gpu} if self.client_gpu else {})
        return [{"CPU": self.driver_cpu}, {"CPU": self.server_cpu}, *[client] * self.client_actors]


def plan_shares(config: FederationConfig, nodes: Sequence[Node], *, concurrent: int = 1) -> Shares:
    """Resolve ``auto`` shares and check that ``concurrent`` federations fit side by side.

    ``auto`` is a tenth of a GPU per client where there are GPUs, and otherwise an equal part of the CPUs.

    Raises:
        ResourceError: what is needed and what there is.
    """
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    actors = math.ceil(config.clients / config.runtime.clients_per_actor)
    auto_cpu = min(LARGEST_AUTO_CPU_SHARE, math.floor(PRECISION * cpus / ((actors + 2) * concurrent)) / PRECISION)
    client, server = config.resources.client, config.resources.server
    shares = Shares(
        driver_cpu=auto_cpu,
        server_cpu=auto_cpu if server.cpu == "auto" else server.cpu,
        client_cpu=auto_cpu if client.cpu == "auto" else client.cpu,
        client_gpu=(DEFAULT_GPU_SHARE if gpus else 0.0) if client.gpu == "auto" else client.gpu,
        client_actors=actors,
    )
    _check_gpus(shares, nodes, concurrent)
    _check_cpus(shares, nodes, cpus, concurrent)
    return shares


def _check_gpus(shares: Shares, nodes: Sequence[Node], concurrent: int) -> None:
    share, wanted = shares.client_gpu, shares.client_actors * concurrent
    if share == 0:
        return
    if share > 1 and share != int(share):
        raise ResourceError(f"resources.client.gpu={share}: more than one GPU must be a whole number")
    room = sum(
        int(node.gpus) * math.floor(1 / share + 1e-9) if share <= 1 else math.floor(node.gpus / share) for node in nodes
    )
    if room < wanted:
        found = sum(node.gpus for node in nodes)
        raise ResourceError(
            f"{wanted} client actors with resources.client.gpu={share} do not fit: there is room for {room} on "
            f"{found:g} GPUs. Use fewer clients, a smaller share, or resources.client.gpu=0"
        )


def _check_cpus(shares: Shares, nodes: Sequence[Node], cpus: float, concurrent: int) -> None:
    needed = concurrent * sum(bundle["CPU"] for bundle in shares.bundles())
    largest = max(bundle["CPU"] for bundle in shares.bundles())
    if needed > cpus + 1e-6 or largest > max((node.cpus for node in nodes), default=0):
        raise ResourceError(
            f"{concurrent} federation(s) of {shares.client_actors} client actors with resources.client.cpu="
            f"{shares.client_cpu:g} need {needed:g} CPUs, there are {cpus:g} on {len(nodes)} node(s). "
            f"Use fewer clients or leave resources.client.cpu on auto"
        )
