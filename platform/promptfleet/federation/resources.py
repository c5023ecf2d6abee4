"""Resources of the processes of a federation, and a check that they fit the machine or cluster.

Ray waits forever for processes that it cannot place, so all shares are checked before the start.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from promptfleet.cluster.nodes import Node
from promptfleet.config import FederationConfig
from promptfleet.devices import check_device
from promptfleet.errors import ResourceError
from promptfleet.federation.gpu_memory import GIB, ActorMemory, measured_memory
from promptfleet.federation.gpu_shares import PRECISION, share_of
from promptfleet.limits import check_threads

if TYPE_CHECKING:
    from promptfleet.federation.prepare import Prepared

AUTO_ACTORS_PER_GPU = 10  # unless the table has a measured number: each actor holds its own CUDA context and weights
LARGEST_WASTE = 0.05  # of a GPU, for shares that are not quite 1/n, such as 0.33
LARGEST_AUTO_CPU_SHARE = 0.1

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shares:
    """Shares of one federation's processes: the driver of the rounds, the server, each client's actor."""

    driver_cpu: float
    server_cpu: float
    client_cpu: float
    client_gpu: float
    client_actors: int
    server_gpu: float = 0.0

    @property
    def actors_per_gpu(self) -> int:
        """Number of client actors that share a GPU; 0 if they use none, 1 if each has one or more."""
        return _per_gpu(self.client_gpu) if self.client_gpu else 0

    def describe_gpus(self, memory: ActorMemory) -> str:
        """Describe the number of actors that share a GPU, and about how much of its memory they take."""
        together = memory.bytes * self.actors_per_gpu / GIB
        return (
            f"client actors: {self.client_gpu:g} GPU each, {self.actors_per_gpu} to a GPU; about {memory}; "
            f"{together:.1f} GiB of a GPU"
        )

    def bundles(self) -> list[dict[str, float]]:
        """Return one placement bundle per process: driver, server, clients."""
        client = {"CPU": self.client_cpu} | ({"GPU": self.client_gpu} if self.client_gpu else {})
        server = {"CPU": self.server_cpu} | ({"GPU": self.server_gpu} if self.server_gpu else {})
        return [{"CPU": self.driver_cpu}, server, *[client] * self.client_actors]


def plan_shares(config: FederationConfig, nodes: Sequence[Node], *, concurrent: int = 1) -> Shares:
    """Resolve ``auto`` shares and check that ``concurrent`` federations fit side by side.

    ``auto`` divides GPUs evenly, with up to ten actors on each, or as many as were measured to fit (``gpu_memory``);
    without GPUs, it is an equal part of the CPUs.

    Raises:
        ResourceError: the message has the needed and the available resources.
    """
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    check_device(config.runtime.device, gpus, f"on {len(nodes)} node(s)")
    check_threads(config.runtime.threads_per_client, max((node.cpus for node in nodes), default=0))
    usable = 0 if config.runtime.device == "cpu" else gpus
    actors = math.ceil(config.clients / config.runtime.clients_per_actor)
    auto_cpu = min(LARGEST_AUTO_CPU_SHARE, math.floor(PRECISION * cpus / ((actors + 2) * concurrent)) / PRECISION)
    if cpus and not auto_cpu:
        raise ResourceError(
            f"{concurrent} federation(s) of {actors} client actors are {(actors + 2) * concurrent} processes, too many "
            f"for {cpus:g} CPUs: raise runtime.clients_per_actor, or run fewer side by side"
        )
    client, server = config.resources.client, config.resources.server
    server_gpu = server_share(config)
    shares = Shares(
        driver_cpu=auto_cpu,
        server_cpu=auto_cpu if server.cpu == "auto" else server.cpu,
        client_cpu=auto_cpu if client.cpu == "auto" else client.cpu,
        client_gpu=client.gpu
        if client.gpu != "auto"
        else _auto_gpu(actors * concurrent, int(usable), _most_actors(config, nodes), 1 - server_gpu),
        client_actors=actors,
        server_gpu=server_gpu,
    )
    _check_gpus(shares, nodes, config.clients, concurrent)
    _check_cpus(shares, nodes, cpus, concurrent)
    return shares


def server_share(config: FederationConfig) -> float:
    """Return the server's share of a GPU, with which it computes there; ``auto`` is none."""
    share = config.resources.server.gpu
    return 0.0 if share == "auto" or config.runtime.device == "cpu" else share


def announce_gpus(shares: Shares, config: FederationConfig, prepared: "Prepared", nodes: Sequence[Node]) -> None:
    """Log the actors that share GPUs, if there are any, and the memory that they take.

    Raises ResourceError if the smallest GPU that is known has too little.
    """
    if shares.client_gpu:
        check_memory(shares, ActorMemory.of(config, prepared), config.clients, _smallest_gpu(nodes), _gpus(nodes))


def check_memory(shares: Shares, memory: ActorMemory, clients: int, gpu_bytes: int, gpus: int) -> None:
    """Log the memory of the actors, and raise ResourceError if they exceed ``gpu_bytes``; 0 is unknown."""
    logger.info(shares.describe_gpus(memory))
    if not 0 < gpu_bytes < shares.actors_per_gpu * memory.bytes:
        return
    fits = gpu_bytes // memory.bytes
    packed = math.ceil(clients / (fits * gpus)) if fits and gpus else 0
    advice = f"resources.client.gpu={share_of(fits):g} and runtime.clients_per_actor={packed}" if fits else ""
    raise ResourceError(
        f"{shares.describe_gpus(memory)}, which has {gpu_bytes / GIB:.1f} GiB: "
        f"use {advice or 'a smaller runtime.clients_per_actor, or a larger GPU'}"
    )


def _smallest_gpu(nodes: Sequence[Node]) -> int:
    """Return the bytes of the smallest GPU whose memory is known, 0 if none is."""
    return min((node.gpu_bytes for node in nodes if node.gpu_bytes), default=0)


def _gpus(nodes: Sequence[Node]) -> int:
    return int(sum(node.gpus for node in nodes))


def _most_actors(config: FederationConfig, nodes: Sequence[Node]) -> int:
    """Return the largest number of actors on a GPU: as measured with this backbone for the smallest GPU, or ten."""
    measured, gpu_bytes = measured_memory().get(config.backbone.name), _smallest_gpu(nodes)
    return max(1, gpu_bytes // measured.actor_bytes) if measured and gpu_bytes else AUTO_ACTORS_PER_GPU


def _auto_gpu(actors: int, gpus: int, most: int, rest: float) -> float:
    """Return shares that put as many actors on the ``rest`` of each GPU, ``most`` at most; 0 without GPUs."""
    return share_of(min(most, math.ceil(actors / gpus)), rest) if gpus else 0.0


def _per_gpu(share: float) -> int:
    return math.floor(1 / share + 1e-9) if share <= 1 else 1


def _check_gpus(shares: Shares, nodes: Sequence[Node], clients: int, concurrent: int) -> None:
    share, wanted = shares.client_gpu, shares.client_actors * concurrent
    if shares.server_gpu > sum(node.gpus for node in nodes):
        raise ResourceError(
            f"resources.server.gpu={shares.server_gpu:g}: there are {sum(node.gpus for node in nodes):g} GPUs"
        )
    if share == 0:
        return
    if share > 1 and share != int(share):
        raise ResourceError(f"resources.client.gpu={share}: more than one GPU must be a whole number")
    if share < 1 / PRECISION:
        raise ResourceError(f"resources.client.gpu={share}: Ray counts in steps of {1 / PRECISION:g}, use 0 or more")
    per_gpu, rest = _per_gpu(share), 1 - shares.server_gpu
    beside_server = math.floor(rest / share + 1e-9)
    if share < 1 and beside_server and min(1 - per_gpu * share, rest - beside_server * share) > LARGEST_WASTE:
        raise ResourceError(
            f"resources.client.gpu={share}: {per_gpu} such actors fit a GPU and {1 - per_gpu * share:.2g} of it stays "
            f"unused; use 1/n: {share_of(per_gpu):g} for {per_gpu}, or {share_of(per_gpu + 1):g} for {per_gpu + 1}"
        )
    room = sum(int(node.gpus) * per_gpu if share <= 1 else math.floor(node.gpus / share) for node in nodes)
    if shares.server_gpu and room:  # the servers take their share of one GPU
        room -= per_gpu - max(0, math.floor((1 - concurrent * shares.server_gpu) / share + 1e-9))
    if room < wanted:
        found = sum(node.gpus for node in nodes)
        actors = room // concurrent
        packed = f"runtime.clients_per_actor={math.ceil(clients / actors)}, " if actors else ""
        raise ResourceError(
            f"{wanted} client actors with resources.client.gpu={share} do not fit: there is room for {room} on "
            f"{found:g} GPUs. Use {packed}fewer clients, a smaller share, or resources.client.gpu=0"
        )


def _check_cpus(shares: Shares, nodes: Sequence[Node], cpus: float, concurrent: int) -> None:
    needed = concurrent * (shares.driver_cpu + shares.server_cpu + shares.client_cpu * shares.client_actors)
    largest = max(shares.driver_cpu, shares.server_cpu, shares.client_cpu)
    if needed > cpus + 1e-6 or largest > max((node.cpus for node in nodes), default=0):
        raise ResourceError(
            f"{concurrent} federation(s) of {shares.client_actors} client actors with resources.client.cpu="
            f"{shares.client_cpu:g} need {needed:g} CPUs, there are {cpus:g} on {len(nodes)} node(s). "
            f"Use fewer clients or leave resources.client.cpu on auto"
        )
