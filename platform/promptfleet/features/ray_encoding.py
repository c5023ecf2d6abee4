"""Encoding spread over a Ray cluster: one process per GPU, or per four CPUs where there is none."""

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import ray
import torch
from ray import ObjectRef
from ray.exceptions import RayActorError

from promptfleet.config import FederationConfig
from promptfleet.devices import Wanted, choose_device
from promptfleet.errors import DataError, PromptfleetError, ResourceError
from promptfleet.features.image_encoder import Arrays, EncodedPart, Encoder, Kind, load_inputs

logger = logging.getLogger(__name__)

CPUS_PER_ENCODER = 4
THREADS_PER_GPU = 8  # they decode; the GPU computes their batches one after the other


@dataclass(frozen=True)
class Encoders:
    """Number of processes, with their threads and their share of the cluster."""

    processes: int
    threads: int
    cpus: float
    gpus: float


def plan_encoders(parts: int, device: Wanted) -> Encoders | None:
    """Return the encoders for ``parts`` on this cluster; None if they would be no more than this very process."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = 0 if device == "cpu" else sum(int(node.get("GPU", 0)) for node in nodes)
    if gpus:
        plan = Encoders(min(gpus, math.ceil(parts / THREADS_PER_GPU)), THREADS_PER_GPU, 1.0, 1.0)
        return None if plan.processes == 1 and choose_device("auto").type == "cuda" else plan
    room = sum(int(node.get("CPU", 0)) // CPUS_PER_ENCODER for node in nodes)
    plan = Encoders(min(room, math.ceil(parts / CPUS_PER_ENCODER)), CPUS_PER_ENCODER, CPUS_PER_ENCODER, 0.0)
    return plan if plan.processes > 1 else None


class NoEncoder(ResourceError):
    """Error if no process of the cluster could start to encode."""


class EncoderActor:
    """Process that loads dataset and backbone again, and checks that they are the requested ones."""

    def __init__(self, config: FederationConfig, kinds: Sequence[Kind], content: Mapping[str, str]):
        dataset, backbone = load_inputs(config)
        if {"backbone": backbone.fingerprint, "dataset": dataset.fingerprint} != content:
            raise DataError(f"node {ray.util.get_node_ip_address()} has another {config.dataset} or {backbone.name}")
        self._encode = Encoder(backbone, dataset, kinds, config.features.views, choose_device(config.runtime.device))

    def encode(self, part: range) -> tuple[Arrays, float] | PromptfleetError:
        """Return the features of ``part`` and the seconds that they took, or the error."""
        torch.set_num_threads(1)  # of the thread that runs this call
        started = time.perf_counter()
        try:
            return self._encode(part), time.perf_counter() - started
        except PromptfleetError as error:
            return error


def encode_on_ray(
    config: FederationConfig,
    kinds: Sequence[Kind],
    content: Mapping[str, str],
    parts: Sequence[range],
    encoders: Encoders,
) -> Iterator[EncodedPart]:
    """Encode like ``encode_in_threads``, in processes. A process that finds no room yet is not waited for.

    A process that cannot start, such as one on a node without the dataset, is left out.

    Raises:
        DataError: as the encoder does.
        NoEncoder: none can start.
        ResourceError: no process started within ``runtime.start_timeout_s``, or one ended.
    """
    options = {"num_cpus": encoders.cpus, "num_gpus": encoders.gpus, "max_concurrency": encoders.threads}
    actor_class = ray.remote(EncoderActor).options(**options)
    actors = [actor_class.remote(config, kinds, content) for _ in range(encoders.processes)]
    starting = {actor.__ray_ready__.remote(): actor for actor in actors}
    running: dict[ObjectRef, tuple[range, ray.actor.ActorHandle]] = {}
    todo, left, failure, working = iter(parts), len(parts), None, 0

    def begin(actor: ray.actor.ActorHandle, count: int) -> None:
        for part in islice(todo, count):
            running[actor.encode.remote(part)] = part, actor

    try:
        while left and not (failure and not running):
            timeout = None if running else config.runtime.start_timeout_s
            done, _ = ray.wait([*running, *starting], timeout=timeout)
            if not done:
                raise ResourceError(
                    f"no process to encode images with started within runtime.start_timeout_s={timeout:g}; other work "
                    f"may be holding the cluster's resources"
                )
            for ref in done:
                if ref in starting:
                    actor = starting.pop(ref)
                    reason = _why_not(ref)
                    if reason is None:
                        working += 1
                        begin(actor, encoders.threads + 1)
                    elif running or starting:
                        logger.warning("encoding without one process: %s", reason)
                    else:
                        raise NoEncoder(reason)
                    continue
                encoded = ray.get(ref)
                part, actor = running.pop(ref)
                if isinstance(encoded, PromptfleetError):
                    failure = encoded
                    todo = iter(())
                    continue
                begin(actor, 1)
                left -= 1
                arrays, seconds = encoded
                yield EncodedPart(part, arrays, seconds / (working * encoders.threads))
        if failure:
            raise failure
    except RayActorError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ResourceError(f"a process that encoded images ended ({reason}); what was encoded is kept") from None
    finally:
        for actor in actors:
            ray.kill(actor)


def _why_not(started: ObjectRef) -> str | None:
    """Return the reason why a process could not start; None if it did. Raises RayActorError for any other cause."""
    try:
        ray.get(started)
    except RayActorError as error:
        if not error.actor_init_failed:
            raise
        return str(error).strip().splitlines()[-1].removeprefix("promptfleet.errors.")
    return None
