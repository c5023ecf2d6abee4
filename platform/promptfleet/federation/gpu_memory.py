"""GPU memory of one client actor: CUDA's own part, the frozen weights, and a training step.

Weights and the step are counted for each federation. What CUDA takes has to be measured: ``gpu_memory.json`` has it per
backbone, for those that ``benchmarks/gpu.py`` has been run with on a card. For others it is assumed.
"""

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import torch

from promptfleet.clip.activations import activation_bytes
from promptfleet.config import FederationConfig
from promptfleet.devices import gpu_sizes
from promptfleet.errors import ResourceError
from promptfleet.federation.gpu_shares import share_of
from promptfleet.methods.parts.prompts import context_shape
from promptfleet.methods.parts.side_by_side import side_by_side

if TYPE_CHECKING:
    from promptfleet.federation.prepare import Prepared

ASSUMED_CUDA_GIB = 0.5  # before any tensor, about: driver, kernels, library buffers
GIB = 2**30


@dataclass(frozen=True)
class Measured:
    """One entry of the table: GiB that an actor took of ``card``; ``date`` is a day such as 2026-12-01.

    ``weights_gib`` and ``step_gib`` are those of the benchmark: 100 classes, 16 tokens, one client.
    """

    card: str
    date: str
    cuda_gib: float
    weights_gib: float
    step_gib: float

    @property
    def actor_bytes(self) -> int:
        return math.ceil((self.cuda_gib + self.weights_gib + self.step_gib) * GIB)


@dataclass(frozen=True)
class ActorMemory:
    """Bytes that one client actor takes; CUDA's part is ``measured`` or assumed."""

    backbone: str
    measured: Measured | None
    weights: int
    step: int
    side_by_side: int

    @classmethod
    def of(cls, config: FederationConfig, prepared: "Prepared") -> "ActorMemory":
        """Count the memory of an actor of this federation; for methods that train several prompts, one is counted."""
        world = prepared.world(config)
        clients = min(config.runtime.clients_per_actor, side_by_side(world)) if config.runtime.batch_steps else 1
        shape = (clients, *context_shape(world))
        step = activation_bytes(world.clip.tower, world.clip.classes, shape, config.class_token_position)
        if world.image_tower is not None:
            step += clients * config.batch_size * world.image_tower.activation_bytes
        name = config.backbone.name
        return cls(name, measured_memory().get(name), prepared.weights_bytes(), step, clients)

    @property
    def cuda(self) -> int:
        return math.ceil((self.measured.cuda_gib if self.measured else ASSUMED_CUDA_GIB) * GIB)

    @property
    def bytes(self) -> int:
        return self.cuda + self.weights + self.step

    def __str__(self) -> str:
        seen = f"measured on {self.measured.card}" if self.measured else f"assumed, {self.backbone} is not measured yet"
        parts = f"{self.cuda / GIB:.2g} CUDA ({seen}), {self.weights / GIB:.2g} weights"
        return (
            f"{self.bytes / GIB:.1f} GiB each: {parts}, {self.step / GIB:.2g} a step of {self.side_by_side} client(s)"
        )


@cache
def measured_memory() -> dict[str, Measured]:
    """Return the table of this package by the backbone's name."""
    table = json.loads((files("promptfleet.federation") / "gpu_memory.json").read_text(encoding="utf-8"))
    return {name: Measured(**entry) for name, entry in table.items()}


@contextmanager
def explaining_full_memory(side_by_side: int) -> Iterator[None]:
    """Raise ResourceError, with settings that would fit, if a GPU's memory is not enough for the work within.

    side_by_side: clients that it takes a step of at a time.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        total, needed = gpu_sizes()[0], torch.cuda.max_memory_allocated() + _asked_for(error)
        torch.cuda.empty_cache()
        raise ResourceError(
            f"out of GPU memory: {needed / GIB:.1f} GiB or more, and what CUDA takes, are needed in this process by "
            f"{side_by_side} client(s) at a time; {what_fits(total, needed, side_by_side)}"
        ) from None


def what_fits(total: int, needed: int, side_by_side: int) -> str:
    """Return settings for processes that need ``needed`` bytes each and share a GPU of ``total`` bytes."""
    cuda = math.ceil(ASSUMED_CUDA_GIB * GIB)
    actors = total // (cuda + needed)
    if actors:
        return f"use resources.client.gpu={share_of(actors):g} or more, with runtime.clients_per_actor for fewer actors"
    clients = max(0, total - cuda) * side_by_side // needed
    if clients:
        return f"use runtime.clients_per_actor={clients} or less, or runtime.batch_steps=false"
    return "use precision=bfloat16, a smaller batch_size or a larger GPU"


def _asked_for(error: torch.OutOfMemoryError) -> int:
    """Return the bytes of the allocation that failed, 0 if the error does not say."""
    said = re.search(r"Tried to allocate ([\d.]+) ([KMG])iB", str(error))
    return math.ceil(float(said[1]) * {"K": 2**10, "M": 2**20, "G": GIB}[said[2]]) if said else 0
