"""The server's pool of experts: the last context of each client, with its text features, and the choice among them."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from promptfleet.methods.experts.in_memory import InMemory
from promptfleet.methods.experts.nearest import MANY_POINTS
from promptfleet.methods.experts.on_disk import OnDisk
from promptfleet.methods.experts.options import PoolConfig, Selection
from promptfleet.methods.experts.outliers import Outliers, find_outliers
from promptfleet.methods.experts.selection import select_experts
from promptfleet.methods.experts.sketches import WIDTH, updated_sketches
from promptfleet.methods.protocol import Arrived, Call, RowStore, State

KINDS = ("context", "text")


@dataclass(frozen=True)
class Experts:
    """Experts of one client: ids ``[K']``, contexts ``[K', tokens, width]`` and texts ``[K', classes, dim]``."""

    ids: Tensor
    contexts: Tensor
    texts: Tensor


@dataclass(frozen=True)
class ExpertPool:
    """Pool at the end of a round; a value that never changes.

    ``entries`` has each client's context and text features, ``rounds [clients]`` the round of their upload (0: none).
    ``frame [WIDTH, numbers]`` and ``sketches [clients, WIDTH]`` are there only if they make the search faster.

    In the server's state: ``pool.context`` [clients, tokens, width], ``pool.text`` [clients, classes, dim],
    ``pool.round``, and with sketches ``pool.frame`` and ``pool.sketch``. On disk the first two are rows of
    ``World.rows``, and the state has the row of each client ``pool.place`` [clients] (-1: none), the number of rows
    ``pool.end`` and their hash ``pool.digest`` [32].
    """

    entries: InMemory | OnDisk
    rounds: Tensor
    frame: Tensor | None
    sketches: Tensor | None
    config: PoolConfig
    selection: Selection

    @classmethod
    def empty(
        cls, clients: int, server: State, config: PoolConfig, selection: Selection, rows: RowStore | None
    ) -> "ExpertPool":
        """Make a pool without entries; the shapes of contexts and texts are those of the global ones in ``server``."""
        shapes, dtype = _shapes(server), _dtype(config)
        on_disk = config.storage == "disk"
        entries = OnDisk.empty(clients, shapes, dtype, rows) if on_disk else InMemory.empty(clients, shapes, dtype)
        rounds = torch.zeros(clients, dtype=torch.int64)
        if selection != "nearest" or (config.search == "exact" and clients < MANY_POINTS):
            return cls(entries, rounds, None, None, config, selection)
        frame, sketches = torch.zeros(WIDTH, server["context"].numel()), torch.zeros(clients, WIDTH)
        return cls(entries, rounds, frame, sketches, config, selection)

    @classmethod
    def of(cls, server: State, config: PoolConfig, selection: Selection, rows: RowStore | None) -> "ExpertPool":
        """Find the pool in a server's state. ``rows`` has its entries if they are on disk."""
        if config.storage == "disk":
            entries = OnDisk.of(server, _shapes(server), _dtype(config), rows)
        else:
            entries = InMemory.of(server, KINDS)
        sketches = server.get("pool.frame"), server.get("pool.sketch")
        return cls(entries, server["pool.round"], *sketches, config, selection)

    def state(self) -> State:
        """Return the part of the server's state that ``of`` reads."""
        sketches = {} if self.frame is None else {"pool.frame": self.frame, "pool.sketch": self.sketches}
        return {**self.entries.state(), "pool.round": self.rounds, **sketches}

    def select(self, call: Call, count: int) -> dict[int, Experts]:
        """Choose ``count`` experts for each client of a call, or fewer if the pool has fewer; in float32."""
        seeds = call.shared_rng.integers(2**63, size=len(self.rounds))  # by client, the same in each part of a cohort
        chosen = self._choose(call.clients, count, seeds)
        by_count = defaultdict(list)  # clients whose experts are read together
        for client, ids in chosen.items():
            by_count[len(ids)].append(client)
        found = {}
        for clients in by_count.values():
            ids = torch.tensor([chosen[client] for client in clients], dtype=torch.int64)
            experts = (ids, *(self.entries[kind][ids].float() for kind in KINDS))
            found |= {client: Experts(*own) for client, *own in zip(clients, *experts, strict=True)}
        return {client: found[client] for client in call.clients}

    def with_uploads(self, arrived: Arrived) -> "ExpertPool":
        """Return the pool with a round's uploads as the entries of their clients."""
        texts = {client: upload.attached["text"] for client, upload in arrived.uploads.items()}
        entries = self.entries.with_new({"context": arrived.sent("context"), "text": texts})
        rounds = self.rounds.clone()
        rounds[list(arrived.uploads)] = arrived.round
        frame, sketches = self.frame, self.sketches
        if frame is not None:
            both = (self.rounds, rounds)
            frame, sketches = updated_sketches(frame, sketches, entries["context"], *both, arrived.rng)
        return replace(self, entries=entries, rounds=rounds, frame=frame, sketches=sketches)

    def outliers(self) -> Outliers:
        """Find the clients whose prompts others do not get."""
        if self.config.outlier_tolerance is None:
            return Outliers({}, float("inf"))
        return find_outliers(self.entries["context"], self.rounds, self.config.outlier_tolerance)

    def _choose(self, cohort: Sequence[int], count: int, seeds: np.ndarray) -> dict[int, list[int]]:
        """Return the ids of each client's experts; an outlier still has experts."""
        outliers = self.outliers().distances.keys()

        def among_all_but(left_out: Collection[int], clients: Sequence[int]) -> dict[int, list[int]]:
            rounds = self.rounds.clone()
            rounds[list(left_out)] = 0
            contexts, search = self.entries["context"], self.config.search
            return select_experts(contexts, rounds, clients, count, self.selection, seeds, self.sketches, search)

        chosen = among_all_but(outliers, [client for client in cohort if client not in outliers])
        for client in outliers & set(cohort):
            chosen |= among_all_but(outliers - {client}, [client])
        return chosen


def _shapes(server: State) -> Mapping[str, torch.Size]:
    return {kind: server[kind].shape for kind in KINDS}


def _dtype(config: PoolConfig) -> torch.dtype:
    return getattr(torch, config.dtype)
