"""The processes of a federation under Ray. They host the same ``Server`` and ``Client`` as the local fleet does.

Imported by every client process, so nothing here imports ray.tune, mlflow or open_clip.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import torch

from promptfleet.clip.frozen import FrozenClip
from promptfleet.config import FederationConfig
from promptfleet.data.client_split import ClientSplit
from promptfleet.data.feature_store import open_features
from promptfleet.federation.client import Client, Upload
from promptfleet.federation.reports import Evaluation, TrainReport
from promptfleet.federation.server import Server
from promptfleet.federation.shared_memory import Packed, seal, unpack
from promptfleet.federation.wire import to_arrays, to_tensors
from promptfleet.methods import load_method
from promptfleet.methods.protocol import World

if TYPE_CHECKING:
    from promptfleet.federation.prepare import Prepared

Arrays = Any


@dataclass(frozen=True)
class Frozen:
    """``Prepared`` as it lies in the object store."""

    packed: Packed
    settings: dict[str, Any]
    features: str
    class_names: tuple[str, ...]

    def attach(self, device: str) -> FrozenClip:
        """The frozen CLIP on ``device``: in place and sealed on the CPU, a copy per process on a GPU."""
        seal(self.packed)
        return FrozenClip.from_tensors(unpack(self.packed), self.settings).to(device)

    def prepared(self) -> "Prepared":
        """What was put there, its CLIP in place on the CPU."""
        from promptfleet.federation.prepare import Prepared  # which no client process needs

        return Prepared(self.attach("cpu"), Path(self.features), self.class_names)


class ServerActor:
    """Hosts the server of one federation at a time: expert pool, selection, aggregation."""

    def __init__(self, frozen: Frozen):
        self._frozen = frozen
        self._clip = frozen.attach("cpu")

    def begin(self, config: FederationConfig) -> None:
        torch.set_num_threads(config.runtime.threads_per_client)
        world = World(config, self._clip, self._frozen.class_names)
        self._server = Server(load_method(config.method), world)

    def select(self, round_index: int, cohort: Sequence[int]) -> list[Arrays]:
        """One download per client of ``cohort``, in its order; called with as many return values."""
        downloads = self._server.select(round_index, cohort)
        packed = [to_arrays(downloads[client]) for client in cohort]
        return packed if len(packed) > 1 else packed[0]

    def aggregate(self, round_index: int, clients: Sequence[int], *uploads: Arrays) -> dict[int, str]:
        arrived: dict[int, Upload] = dict(zip(clients, map(to_tensors, uploads), strict=True))
        return self._server.aggregate(round_index, arrived)

    def state(self) -> Arrays:
        return to_arrays(self._server.state)

    def load_state(self, state: Arrays) -> None:
        self._server.state = to_tensors(state)


class ClientActor:
    """Hosts one simulated client. Holds its data, but no state: private states come in and go out with each call."""

    def __init__(self, frozen: Frozen):
        self._frozen = frozen
        self._store = open_features(frozen.features, verify=False)
        self._clip = frozen.attach("cuda" if ray.get_gpu_ids() and torch.cuda.is_available() else "cpu")

    def begin(self, config: FederationConfig, client_id: int, split: ClientSplit) -> None:
        torch.set_num_threads(config.runtime.threads_per_client)
        world = World(config, self._clip, self._frozen.class_names)
        self._client = Client(client_id, load_method(config.method), world, self._store, split)

    def initial_state(self) -> Arrays:
        return to_arrays(self._client.initial_state())

    def train(self, round_index: int, private: Arrays, download: Arrays) -> tuple[Arrays, Arrays, TrainReport]:
        """Three return values: next private state, upload, report."""
        private, upload, report = self._client.train(round_index, to_tensors(private), to_tensors(download))
        return to_arrays(private), to_arrays(upload), report

    def evaluate(self, round_index: int, private: Arrays, download: Arrays) -> Evaluation:
        return self._client.evaluate(round_index, to_tensors(private), to_tensors(download))

    def whereabouts(self) -> Mapping[str, Any]:
        """Process id, node, GPU ids and assigned resources, for tests and for reports."""
        context = ray.get_runtime_context()
        return {
            "pid": os.getpid(),
            "node": context.get_node_id(),
            "gpus": ray.get_gpu_ids(),
            "resources": context.get_assigned_resources(),
            "placement_group": context.get_placement_group_id(),
        }
