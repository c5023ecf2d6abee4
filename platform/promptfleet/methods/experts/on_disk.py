"""A pool of experts on disk: its entries in the order in which they came, and where each client's newest one is.

Nothing that a state refers to is ever written again, so a state of any round stays what it was, and a round that is
done again writes the same entries to the same place. The state has their hash, hence covers what is in them.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from promptfleet.methods.protocol import Rows, State


class Entries:
    """The newest entry of each client, for whoever would take them as a tensor ``[clients, *shape]``.

    They are read as they are asked for, and are zeros where ``place [clients]`` says that there is none (-1).
    """

    def __init__(self, rows: Rows, kind: str, place: Tensor, shape: Sequence[int], dtype: torch.dtype):
        self._rows, self._kind, self._place, self._dtype = rows, kind, place, dtype
        self.shape = torch.Size((len(place), *shape))

    def __len__(self) -> int:
        return len(self._place)

    def __getitem__(self, ids: Tensor | np.ndarray | int) -> Tensor:
        """``[*ids, *shape]``."""
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
        """The same entries of fewer dimensions; ``start`` is 1, clients stay apart."""
        assert start == 1
        return Entries(self._rows, self._kind, self._place, (prod(self.shape[1:]),), self._dtype)

    def split(self, size: int) -> Iterator[Tensor]:
        """``[size, *shape]`` of so many clients after the other, each read when its turn comes."""
        return (self[ids] for ids in torch.arange(len(self)).split(size))


def no_entries(clients: int) -> State:
    """What the state says of a pool that has none yet."""
    return {
        "pool.place": torch.full((clients,), -1),
        "pool.end": torch.tensor(0),
        "pool.digest": torch.zeros(hashlib.sha256().digest_size, dtype=torch.uint8),
    }


def with_entries(rows: Rows, server: State, entries: Mapping[str, Tensor], clients: Sequence[int]) -> State:
    """What the state says of the pool with new ``entries [clients, ...]`` of each kind; they are on disk by then."""
    end, place = int(server["pool.end"]), server["pool.place"].clone()
    digest = hashlib.sha256(server["pool.digest"].numpy())
    for kind, tensor in entries.items():
        rows.write(kind, end, tensor)
        digest.update(tensor.flatten().view(torch.uint8).numpy())
    place[list(clients)] = torch.arange(end, end + len(clients))
    return {
        "pool.place": place,
        "pool.end": torch.tensor(end + len(clients)),
        "pool.digest": torch.tensor(list(digest.digest()), dtype=torch.uint8),
    }
