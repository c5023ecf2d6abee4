"""How much of a machine or cluster each process of a federation takes, and whether it fits at all.

Ray waits for ever for what it cannot place, so everything is checked before anything starts.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

from promptfleet.config import FederationConfig
from promptfleet.devices import check_device
from promptfleet.errors import ResourceError

AUTO_ACTORS_PER_GPU = 10  # at most: each holds a CUDA context and a copy of the weights of its own
CUDA_CONTEXT_GIB = 0.5  # what a process that uses CUDA holds before any tensor, about: driver, kernels, library buffers
LARGEST_WASTE = 0.05  # of a GPU, where shares are not quite 1/n, such as 0.33
LARGEST_AUTO_CPU_SHARE = 0.1
PRECISION = 10_000  # Ray counts in ten-thousandths

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Node:
    """What one machine of the cluster offers; ``has_storage`` says whether it has the files under ``storage.path``."""

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

    @property
    def actors_per_gpu(self) -> int:
        """How many client actors share a GPU; 0 if they use none, 1 if each has one or more."""
        return _per_gpu(self.client_gpu) if self.client_gpu else 0

    def describe_gpus(self, weights_bytes: int) -> str:
        """Who shares GPUs with how many, and about how much memory that takes, ``weights_bytes`` in each process."""
        each = CUDA_CONTEXT_GIB + weights_bytes / 2**30
        return (
            f"client actors: {self.client_gpu:g} GPU each, {self.actors_per_gpu} to a GPU; about {each:.1f} GiB each "
            f"({CUDA_CONTEXT_GIB:g} for CUDA, the rest weights), {each * self.actors_per_gpu:.1f} GiB of a GPU, "
            f"activations not counted"
        )

    def bundles(self) -> list[dict[str, float]]:
        """One placement bundle per process: driver, server, clients."""
        client = {"CPU": self.client_cpu} | ({"GPU": self.client_gpu} if self.client_gpu else {})
        return [{"CPU": self.driver_cpu}, {"CPU": self.server_cpu}, *[client] * self.client_actors]


def plan_shares(config: FederationConfig, nodes: Sequence[Node], *, concurrent: int = 1) -> Shares:
    """Resolve ``auto`` shares and check that ``concurrent`` federations fit side by side.

    ``auto`` shares GPUs out evenly, up to ten actors to each; where there are none, it is an equal part of the CPUs.

    Raises:
        ResourceError: what is needed and what there is.
    """
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    check_device(config.runtime.device, gpus, f"on {len(nodes)} node(s)")
    usable = 0 if config.runtime.device == "cpu" else gpus
    actors = math.ceil(config.clients / config.runtime.clients_per_actor)
    auto_cpu = min(LARGEST_AUTO_CPU_SHARE, math.floor(PRECISION * cpus / ((actors + 2) * concurrent)) / PRECISION)
    client, server = config.resources.client, config.resources.server
    shares = Shares(
        driver_cpu=auto_cpu,
        server_cpu=auto_cpu if server.cpu == "auto" else server.cpu,
        client_cpu=auto_cpu if client.cpu == "auto" else client.cpu,
        client_gpu=client.gpu if client.gpu != "auto" else _auto_gpu(actors * concurrent, int(usable)),
        client_actors=actors,
    )
    _check_gpus(shares, nodes, config.clients, concurrent)
    _check_cpus(shares, nodes, cpus, concurrent)
    return shares


def announce_gpus(shares: Shares, weights_bytes: int, gpu_bytes: int) -> None:
    """Log who shares GPUs, where anybody does, and what that takes of their memory.

    gpu_bytes is the smallest GPU's memory, 0 where nobody knows. Raises ResourceError if it is certainly too little.
    """
    if not shares.client_gpu:
        return
    logger.info(shares.describe_gpus(weights_bytes))
    each = CUDA_CONTEXT_GIB * 2**30 + weights_bytes
    if 0 < gpu_bytes < shares.actors_per_gpu * each:
        fits = int(gpu_bytes // each)
        advice = f"resources.client.gpu={_share_of(fits):g} or more" if fits else "a larger GPU"
        raise ResourceError(
            f"{shares.describe_gpus(weights_bytes)}; a GPU here has {gpu_bytes / 2**30:.1f} GiB: use {advice}, "
            f"and runtime.clients_per_actor to pack clients into fewer processes"
        )


def _auto_gpu(actors: int, gpus: int) -> float:
    """Shares that put as many actors on each GPU as on any other; 0 without GPUs."""
    return _share_of(min(AUTO_ACTORS_PER_GPU, math.ceil(actors / gpus))) if gpus else 0.0


def _share_of(actors_per_gpu: int) -> float:
    """1/n, rounded down to what Ray can count, so that n of them never exceed one GPU."""
    return math.floor(PRECISION / actors_per_gpu) / PRECISION


def _per_gpu(share: float) -> int:
    return math.floor(1 / share + 1e-9) if share <= 1 else 1


def _check_gpus(shares: Shares, nodes: Sequence[Node], clients: int, concurrent: int) -> None:
    share, wanted = shares.client_gpu, shares.client_actors * concurrent
    if share == 0:
        return
    if share > 1 and share != int(share):
        raise ResourceError(f"resources.client.gpu={share}: more than one GPU must be a whole number")
    if share < 1 / PRECISION:
        raise ResourceError(f"resources.client.gpu={share}: Ray counts in steps of {1 / PRECISION:g}, use 0 or more")
    per_gpu = _per_gpu(share)
    if share < 1 and 1 - per_gpu * share > LARGEST_WASTE:
        raise ResourceError(
            f"resources.client.gpu={share}: {per_gpu} such actors fit a GPU and {1 - per_gpu * share:.2g} of it stays "
            f"unused; use 1/n: {_share_of(per_gpu):g} for {per_gpu}, or {_share_of(per_gpu + 1):g} for {per_gpu + 1}"
        )
    room = sum(int(node.gpus) * per_gpu if share <= 1 else math.floor(node.gpus / share) for node in nodes)
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
