"""Actors of a federation under Ray. They host the same ``Server`` and ``Client`` as the local fleet.

Imported by every client process, so nothing here imports ray.tune, mlflow or open_clip.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
import torch

from promptfleet.clip.frozen import FrozenClip
from promptfleet.clip.image_tower import ImageTower
from promptfleet.cluster.node_files import NodeFile
from promptfleet.cluster.shared_memory import Packed, seal, unpack
from promptfleet.config import FederationConfig
from promptfleet.data.client_split import ClientSplit
from promptfleet.data.feature_store import open_store
from promptfleet.devices import check_device, check_visible, choose_device, set_arithmetic
from promptfleet.federation.client_examples import public_examples
from promptfleet.federation.client_group import ClientGroup
from promptfleet.federation.evaluation.foreign_sets import foreign_sets
from promptfleet.federation.evaluation.schedule import Plan
from promptfleet.federation.evaluation.scores import Evaluation
from promptfleet.federation.evaluation.shared_sets import SharedParts
from promptfleet.federation.fleet import Intake
from promptfleet.federation.gpu_memory import explaining_full_memory
from promptfleet.federation.on_ray.wire import (
    Arrays,
    Stacked,
    StackedResults,
    join,
    stack,
    stack_messages,
    stack_results,
    to_arrays,
    to_tensors,
    unstack,
    unstack_messages,
    unstack_results,
)
from promptfleet.federation.other_datasets import OtherDataset
from promptfleet.federation.reports import TrainReport
from promptfleet.federation.server import Server
from promptfleet.federation.server_rows import KeptRows
from promptfleet.federation.worlds import world_of
from promptfleet.methods import load_method
from promptfleet.methods.protocol import Purpose

if TYPE_CHECKING:
    from promptfleet.federation.prepare import Prepared

AT_ONCE = 32  # clients that are evaluated together


@dataclass(frozen=True)
class FrozenImages:
    """An ``ImageTower`` in the object store."""

    packed: Packed
    architecture: Mapping[str, Any]
    preprocessing: Mapping[str, Any]

    def attach(self, device: torch.device | str) -> ImageTower:
        """Return the tower: in place and sealed on the CPU, a copy per process on a GPU."""
        seal(self.packed)
        return ImageTower(unpack(self.packed), self.architecture, self.preprocessing).to(device)


@dataclass(frozen=True)
class FrozenOther:
    """An ``OtherDataset`` in the object store."""

    packed: Packed
    class_names: tuple[str, ...]
    files: Mapping[str, NodeFile]

    def attach(self) -> OtherDataset:
        """Return the dataset, its tensors in place and sealed; files on another node's disk are copied first."""
        seal(self.packed)
        files = {kind: file.here() for kind, file in self.files.items()}
        return OtherDataset.from_tensors(unpack(self.packed), self.class_names, files)


@dataclass(frozen=True)
class Frozen:
    """``Prepared`` in the object store."""

    packed: Packed
    settings: dict[str, Any]
    files: Mapping[str, NodeFile]  # of the feature store
    class_names: tuple[str, ...]
    domain_names: tuple[str, ...]
    image_tower: FrozenImages | None
    others: Mapping[str, FrozenOther]

    def attach(self, device: torch.device | str) -> FrozenClip:
        """Return the frozen CLIP on ``device``: in place and sealed on the CPU, a copy per process on a GPU."""
        seal(self.packed)
        return FrozenClip.from_tensors(unpack(self.packed), self.settings).to(device)

    def attach_images(self, device: torch.device | str) -> ImageTower | None:
        return self.image_tower and self.image_tower.attach(device)

    def files_here(self) -> dict[str, Path]:
        """Return the feature store's files on this node; files on another node's disk are copied first."""
        return {kind: file.here() for kind, file in self.files.items()}

    def prepared(self) -> "Prepared":
        """Return the stored ``Prepared``, its CLIP in place on the CPU."""
        from promptfleet.federation.prepare import Prepared  # no client process needs it

        return Prepared(
            clip=self.attach("cpu"),
            class_names=self.class_names,
            domain_names=self.domain_names,
            image_tower=self.attach_images("cpu"),
            others={name: other.attach() for name, other in self.others.items()},
            **self.files_here(),
        )


class ServerActor:
    """Host of the server of one federation at a time: expert pool, selection, aggregation."""

    def __init__(self, frozen: Frozen):
        self._frozen = frozen
        self._device = choose_device("auto" if ray.get_gpu_ids() else "cpu")
        with explaining_full_memory(side_by_side=1):
            self._clip = frozen.attach(self._device)
            self._image_tower = frozen.attach_images(self._device)

    def begin(self, config: FederationConfig, rows: Path | None, public: np.ndarray) -> None:
        """Make the server; ``public`` are the samples that it has, in the order of the feature store."""
        torch.set_num_threads(config.runtime.threads_per_client)
        set_arithmetic(self._device, tf32=config.precision == "tf32")
        world = world_of(
            config,
            self._clip,
            self._frozen.class_names,
            image_tower=self._image_tower,
            rows=rows and KeptRows(rows),
        )
        if len(public):
            store = open_store(**self._frozen.files_here())
            world = replace(world, public=public_examples(world, store, public))
        self._server = Server(load_method(config.method), world)

    def select(self, round_index: int, cohorts: Sequence[Sequence[int]], purpose: Purpose) -> list[Stacked]:
        """Return downloads for each actor's part of the cohort, as this many return values."""
        downloads = self._server.select(round_index, list(chain(*cohorts)), purpose)
        parts = [stack_messages({client: downloads[client] for client in clients}) for clients in cohorts]
        return parts if len(parts) > 1 else parts[0]

    @ray.method(num_returns=2)
    def aggregate(self, round_index: int, *results: StackedResults) -> tuple[Intake, Arrays]:
        """Aggregate ``results`` from each actor. Return values: the fate of each upload, and the next state."""
        arrived = {client: one for part in results for client, one in unstack_results(part).items()}
        rejected = self._server.aggregate(round_index, arrived)
        return Intake(rejected, self._server.excluded()), self.state()

    def state(self) -> Arrays:
        return to_arrays(self._server.state)

    def load_state(self, state: Arrays) -> None:
        self._server.load(to_tensors(state))


class ClientActor:
    """Host of simulated clients. Holds their data, but no state: each call passes private states in and out."""

    def __init__(self, frozen: Frozen):
        self._frozen = frozen
        self._store = open_store(**frozen.files_here())
        self._node = ray.util.get_node_ip_address()
        self._device = choose_device("auto" if ray.get_gpu_ids() else "cpu")
        with explaining_full_memory(side_by_side=1):
            self._clip = frozen.attach(self._device)
            self._image_tower = frozen.attach_images(self._device)

    def begin(
        self,
        config: FederationConfig,
        splits: Mapping[int, ClientSplit],
        everyone: SharedParts,
        new: np.ndarray,
        upload_noise: float,
    ) -> None:
        """Host the clients of ``splits``; ``new`` are the test samples of new classes."""
        check_device(config.runtime.device, self._device.type == "cuda", f"on node {self._node}")
        check_visible(self._device, len(ray.get_gpu_ids()))
        set_arithmetic(self._device, tf32=config.precision == "tf32")
        torch.set_num_threads(config.runtime.threads_per_client)
        world = world_of(
            config,
            self._clip,
            self._frozen.class_names,
            image_tower=self._image_tower,
            upload_noise=upload_noise,
        )
        others = {name: self._frozen.others[name].attach() for name in config.evaluation.transfer}
        foreign = foreign_sets(
            config,
            self._clip,
            self._frozen.class_names,
            self._store,
            new,
            others,
            image_tower=self._image_tower,
        )
        self._group = ClientGroup(world, self._store, splits, everyone, foreign)

    def initial_states(self, clients: Sequence[int]) -> Stacked:
        return stack(self._group.initial_states(clients))

    @ray.method(num_returns=3)
    def train(
        self,
        round_index: int,
        downloads: Stacked,
        guests: Mapping[int, ClientSplit],
        held: Sequence[Sequence[int]],
        *privates: Stacked,
    ) -> tuple[list[TrainReport], StackedResults, Stacked]:
        """Train clients: ``held[i]`` lists the clients whose private states are in ``privates[i]``.

        ``guests`` are the clients among them that another actor hosts otherwise. Return values: reports, results
        for the server and next private states, in the order of ids.
        """
        self._group.host(guests)
        clients = sorted(chain(*held))
        states, messages = unstack(join(privates, held), clients), unstack_messages(downloads, clients)
        trained = self._group.train(round_index, states, messages)
        return (
            [replace(one.report, node=self._node) for one in trained.values()],
            stack_results(trained),
            stack({client: one.private for client, one in trained.items()}),
        )

    def evaluate(
        self,
        round_index: int,
        plan: Plan,
        downloads: Stacked,
        guests: Mapping[int, ClientSplit],
        held: Sequence[Sequence[int]],
        *privates: Stacked,
    ) -> list[Evaluation]:
        """Evaluate with the arguments of ``train``, a few clients at a time, which bounds the memory of states."""
        self._group.host(guests)
        evaluations, clients, joined = [], sorted(chain(*held)), join(privates, held)
        for start in range(0, len(clients), AT_ONCE):
            some = clients[start : start + AT_ONCE]
            states, messages = unstack(joined, some), unstack_messages(downloads, some)
            evaluations += self._group.evaluate(round_index, states, messages, plan)
        return evaluations

    def whereabouts(self) -> Mapping[str, Any]:
        """Return process id, node, GPU ids and assigned resources, for tests and for reports."""
        context = ray.get_runtime_context()
        return {
            "pid": os.getpid(),
            "node": context.get_node_id(),
            "gpus": ray.get_gpu_ids(),
            "resources": context.get_assigned_resources(),
            "placement_group": context.get_placement_group_id(),
        }
