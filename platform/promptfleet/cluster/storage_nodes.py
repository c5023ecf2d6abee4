"""Nodes of a cluster that have ``storage.path``: all of them, or only the one of this process.

A folder that all nodes share is used from everywhere. A folder of this node alone is written by processes of this node,
so the trials' own processes stay here; files that other nodes read are copied to them (see ``node_files``). An address
must be the same for all of them.
"""

import socket
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from promptfleet.cluster.nodes import Node
from promptfleet.config import StorageConfig
from promptfleet.devices import gpu_sizes
from promptfleet.errors import ConfigError, ResourceError, first_line
from promptfleet.storage.remote import RemoteFolder

ANSWER_TIMEOUT_S = 120.0
ABSENT = "absent"


def nodes_with_storage(storage: StorageConfig | None) -> list[Node]:
    """Return the cluster's living nodes; if there are several, each is asked for ``storage.path``.

    Raises:
        ConfigError: the folder cannot be made or written here.
        ResourceError: a node does not answer, cannot write there, or lacks what another one shares with this one.
    """
    alive = [node for node in ray.nodes() if node["Alive"]]
    answers = {}
    if storage is not None and len(alive) > 1:
        answers = _ask(alive, storage) if storage.address is None else _ask_for_address(alive, storage)
    here = ray.get_runtime_context().get_node_id()
    return [
        Node(
            cpus=node["Resources"].get("CPU", 0.0),
            gpus=node["Resources"].get("GPU", 0.0),
            address=node["NodeManagerAddress"],
            has_storage=answers.get(node["NodeID"]) != ABSENT,
            gpu_bytes=min(gpu_sizes(), default=0) if node["NodeID"] == here else 0,
        )
        for node in alive
    ]


def is_shared(nodes: Sequence[Node]) -> bool:
    """Return True if files under ``storage.path`` are on every node; a single node cannot know about later ones."""
    return len(nodes) > 1 and all(node.has_storage for node in nodes)


def where_trials_run(nodes: Sequence[Node], storage: StorageConfig) -> dict[str, float]:
    """Return resources for a trial's own process, which only nodes have that can write its checkpoints.

    Raises ResourceError if only this node can write them and it offers no CPU.
    """
    if storage.address is not None or is_shared(nodes):
        return {}
    address = ray.util.get_node_ip_address()
    if any(node.address == address and not node.cpus for node in nodes):
        raise ResourceError(
            f"storage.path is on the disk of node {address} alone, where each trial's own process has to run, and that "
            f"node offers no CPU: start its Ray with --num-cpus=1 or more, or use a folder that every node mounts"
        )
    return {f"node:{address}": 0.001}


def _ask(nodes: Sequence[dict], storage: StorageConfig) -> dict[str, str]:
    """Return each node's answer by its id. Raises as ``nodes_with_storage``."""
    folder = storage.folder.absolute()
    marker = folder / f".reachable-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        marker.touch()
    except OSError as error:
        raise ConfigError(f"storage.path={folder}: cannot be written ({error.strerror})") from None
    addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in nodes}
    try:
        answers = _answers(addresses, folder, _look, marker)
    finally:
        marker.unlink()
    _check_all_or_only_this(answers, ray.get_runtime_context().get_node_id(), addresses, folder)
    return answers


def _ask_for_address(nodes: Sequence[dict], storage: StorageConfig) -> dict[str, str]:
    """Do the same for an address: each node looks for a file of this one, and writes one."""
    remote, marker = RemoteFolder(storage, storage.folder), f".reachable-{uuid.uuid4().hex}"
    addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in nodes}
    try:
        remote.write(marker, b"")
        answers = _answers(addresses, storage.path, _look_there, storage, marker)
        remote.delete(marker)
    except OSError as error:
        raise ConfigError(f"storage.path={storage.path}: cannot be used ({first_line(error)})") from None
    return dict.fromkeys(answers, ABSENT)  # each node has its own copies of the files


def _answers(
    addresses: Mapping[str, str], path: str | Path, look: Callable[..., str], *arguments: Any
) -> dict[str, str]:
    """Return the result of ``look`` on each node, by its id; ``addresses`` are the nodes' own. Raises ResourceError."""
    asked = {}
    for node in addresses:
        strategy = NodeAffinitySchedulingStrategy(node, soft=False)
        task = ray.remote(look).options(num_cpus=0, max_retries=0, scheduling_strategy=strategy)
        asked[node] = task.remote(*arguments)
    ray.wait(list(asked.values()), num_returns=len(asked), timeout=ANSWER_TIMEOUT_S)
    return {node: _answer(ref, addresses[node], path) for node, ref in asked.items()}


def _look(marker: Path) -> str:
    """Return ``ABSENT`` without the folder of ``marker``, an empty text if it can be written, else the reason."""
    if not marker.exists():
        return ABSENT
    try:
        own = marker.with_name(f"{marker.name}-{socket.gethostname()}-{uuid.uuid4().hex}")
        own.touch()
        own.unlink()
    except OSError as error:
        return str(error.strerror)
    return ""


def _look_there(storage: StorageConfig, marker: str) -> str:
    """Do the same for an address, where nothing is ``ABSENT``."""
    remote, own = RemoteFolder(storage, storage.folder), f"{marker}-{uuid.uuid4().hex}"
    try:
        if remote.read(marker) is None:
            return "it sees another place"
        remote.write(own, b"")
        remote.delete(own)
    except (OSError, ConfigError) as error:
        return first_line(error)
    return ""


def _answer(ref: ray.ObjectRef, address: str, path: str | Path) -> str:
    try:
        answer = ray.get(ref, timeout=0)
    except RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ResourceError(f"node {address}: cannot run promptfleet, or does not answer ({reason})") from None
    if answer and answer != ABSENT:
        raise ResourceError(f"storage.path={path}: node {address} cannot use it ({answer})")
    return answer


def _check_all_or_only_this(answers: Mapping[str, str], own: str, addresses: Mapping[str, str], folder: Path) -> None:
    lacking = [node for node, answer in answers.items() if answer == ABSENT]
    others = [node for node, answer in answers.items() if answer != ABSENT and node != own]
    if lacking and others:
        raise ResourceError(
            f"storage.path={folder}: node {addresses[lacking[0]]} does not have this folder, node "
            f"{addresses[others[0]]} does; mount it on every node, or use one that only this node has"
        )
