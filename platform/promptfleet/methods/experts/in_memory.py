"""Pool of experts in memory: one tensor of each kind, with a row per client."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from promptfleet.methods.protocol import State


@dataclass(frozen=True)
class InMemory:
    """Newest entry of each client, ``[clients, ...]`` by kind; zeros for a client without one."""

    tensors: Mapping[str, Tensor]

    @classmethod
    def empty(cls, clients: int, shapes: Mapping[str, Sequence[int]], dtype: torch.dtype) -> "InMemory":
        return cls({kind: torch.zeros(clients, *shape, dtype=dtype) for kind, shape in shapes.items()})

    @classmethod
    def of(cls, server: State, kinds: Sequence[str]) -> "InMemory":
        """Take the entries out of a server's state."""
        return cls({kind: server[f"pool.{kind}"] for kind in kinds})

    def __getitem__(self, kind: str) -> Tensor:
        return self.tensors[kind]

    def with_new(self, new: Mapping[str, Mapping[int, Tensor]]) -> "InMemory":
        """Return a pool with new entries, given by kind and client."""
        return InMemory({kind: updated(self.tensors[kind], entries) for kind, entries in new.items()})

    def state(self) -> State:
        return {f"pool.{kind}": tensor for kind, tensor in self.tensors.items()}

    def check(self) -> None:
        """Do nothing: all entries are in the state."""


def updated(pool: Tensor, entries: Mapping[int, Tensor]) -> Tensor:
    """Return a copy of ``pool [clients, ...]`` with the entries of some clients replaced.

    Real numbers beyond the pool's type become its largest.
    """
    pool = pool.clone()
    for client, entry in entries.items():
        pool[client] = fitting(entry, pool.dtype)
    return pool


def fitting(entry: Tensor, dtype: torch.dtype) -> Tensor:
    """Return ``entry`` in the type of a pool: real numbers beyond it become its largest."""
    if dtype.is_floating_point and dtype != entry.dtype:
        limit = torch.finfo(dtype).max
        entry = entry.clamp(-limit, limit)
    return entry.to(dtype)
