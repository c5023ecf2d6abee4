"""A pool of experts on disk: its entries in the order in which they came, and where each client's newest one is.

Rows that a state refers to are only ever written again with the same content: a state of any round stays valid, and a
round that is repeated writes the same entries to the same place. The state has their hash, hence covers their content.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import torch
from torch import Tensor

from promptfleet.methods.experts.in_memory import fitting
from promptfleet.methods.protocol import RowStore, State


@dataclass(frozen=True)
class OnDisk:
    """The newest entry of each client in ``rows``, by kind.

    ``place [clients]`` is the row of each client (-1: none), ``end`` the number of rows, ``digest`` their hash.
    """

    rows: RowStore
    shapes: Mapping[str, Sequence[int]]
    dtype: torch.dtype
    place: Tensor
    end: int
    digest: bytes

    @classmethod
    def empty(cls, clients: int, shapes: Mapping[str, Sequence[int]], dtype: torch.dtype, rows: RowStore) -> "OnDisk":
        return cls(rows, shapes, dtype, torch.full((clients,), -1), 0, bytes(hashlib.sha256().digest_size))

    @classmethod
    def of(cls, server: State, shapes: Mapping[str, Sequence[int]], dtype: torch.dtype, rows: RowStore) -> "OnDisk":
        """Find the entries that a server's state refers to."""
        digest = server["pool.digest"].numpy().tobytes()
        return cls(rows, shapes, dtype, server["pool.place"], int(server["pool.end"]), digest)

    def __getitem__(self, kind: str) -> "Entries":
        return Entries(self.rows, kind, self.place, self.shapes[kind], self.dtype)

    def with_new(self, new: Mapping[str, Mapping[int, Tensor]]) -> "OnDisk":
        """Return a pool with new entries, given by kind and client; they are on disk when it returns."""
        digest, place = hashlib.sha256(self.digest), self.place.clone()
        for kind, entries in new.items():
            stacked = torch.stack([fitting(entry, self.dtype) for entry in entries.values()])
            self.rows.write(kind, self.end, stacked)
            digest.update(stacked.flatten().view(torch.uint8).numpy())
        clients = list(next(iter(new.values())))
        place[clients] = torch.arange(self.end, self.end + len(clients))
        return replace(self, place=place, end=self.end + len(clients), digest=digest.digest())

    def state(self) -> State:
        return {
            "pool.place": self.place,
            "pool.end": torch.tensor(self.end),
            "pool.digest": torch.tensor(list(self.digest), dtype=torch.uint8),
        }

    def check(self) -> None:
        """Raise DataError if entries are missing on disk."""
        for kind, shape in self.shapes.items():
            self.rows.check(kind, self.end, prod(shape) * self.dtype.itemsize)


class Entries:
    """The newest entry of each client, to be used like a tensor ``[clients, *shape]``.

    They are read when they are indexed, and are zeros where ``place [clients]`` says that there is none (-1).
    """

    def __init__(self, rows: RowStore, kind: str, place: Tensor, shape: Sequence[int], dtype: torch.dtype):
        self._rows, self._kind, self._place, self._dtype = rows, kind, place, dtype
        self.shape = torch.Size((len(place), *shape))

    def __len__(self) -> int:
        return len(self._place)

    def __getitem__(self, ids: Tensor | np.ndarray | int) -> Tensor:
        """Return the entries ``[*ids, *shape]``."""
        ids = torch.as_tensor(ids)
        places, shape = self._place[ids.flatten()], self.shape[1:]
        there = places >= 0
        if there.all():
            found = self._rows.read(self._kind, places, shape, self._dtype)
        else:
            found = torch.zeros(len(places), *shape, dtype=self._dtype)
            found[there] = self._rows.read(self._kind, places[there], shape, self._dtype)
        return found.view(*ids.shape, *shape)

    def flatten(self, start: int) -> "Entries":
        """Return the same entries with fewer dimensions; ``start`` is 1: clients stay apart."""
        assert start == 1
        return Entries(self._rows, self._kind, self._place, (prod(self.shape[1:]),), self._dtype)

    def split(self, size: int) -> Iterator[Tensor]:
        """Yield ``[size, *shape]`` of one group of clients after the other; each is read when its turn comes."""
        return (self[ids] for ids in torch.arange(len(self)).split(size))
