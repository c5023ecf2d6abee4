"""Which nodes of a cluster have ``storage.path``: all of them, or only the one that this process runs on.

A folder that all nodes share is used from everywhere. A folder of this node alone is written by processes of this node,
where the trials' own processes are kept, and what other nodes read is copied to them (see ``ray_files``).
"""

import socket
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from promptfleet.errors import ConfigError, ResourceError
from promptfleet.federation.resources import Node

ANSWER_TIMEOUT_S = 120.0
ABSENT = "absent"


def nodes_with_storage(storage_path: str | Path | None) -> list[Node]:
    """The cluster's nodes that are alive, asked whether they have ``storage_path`` where there are several.

    Raises:
        ConfigError: the folder cannot be made or written here.
        ResourceError: a node does not answer, cannot write there, or lacks what another one shares with this one.
    """
    alive = [node for node in ray.nodes() if node["Alive"]]
    answers = {}
    if storage_path is not None and len(alive) > 1:
        answers = _ask(alive, Path(storage_path).absolute())
    return [
        Node(
            cpus=node["Resources"].get("CPU", 0.0),
            gpus=node["Resources"].get("GPU", 0.0),
            address=node["NodeManagerAddress"],
            has_storage=answers.get(node["NodeID"]) != ABSENT,
        )
        for node in alive
    ]


def is_shared(nodes: Sequence[Node]) -> bool:
    """Whether files under ``storage.path`` are there on every node; a node alone does not know about others to come."""
    return len(nodes) > 1 and all(node.has_storage for node in nodes)


def this_node_only(nodes: Sequence[Node]) -> dict[str, float]:
    """Resources that nothing but this process's node has. Raises ResourceError if it offers no CPU to go with them."""
    address = ray.util.get_node_ip_address()
    if any(node.address == address and not node.cpus for node in nodes):
        raise ResourceError(
            f"storage.path is on the disk of node {address} alone, where each trial's own process has to run, and that "
            f"node offers no CPU: start its Ray with --num-cpus=1 or more, or use a folder that every node mounts"
        )
    return {f"node:{address}": 0.001}


def _ask(nodes: Sequence[dict], folder: Path) -> dict[str, str]:
    """Each node's answer by its id. Raises as ``nodes_with_storage``."""
    marker = folder / f".reachable-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        marker.touch()
    except OSError as error:
        raise ConfigError(f"storage.path={folder}: cannot be written ({error.strerror})") from None
    addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in nodes}
    try:
        asked = {node: _on(node, marker) for node in addresses}
        ray.wait(list(asked.values()), num_returns=len(asked), timeout=ANSWER_TIMEOUT_S)
        answers = {node: _answer(ref, addresses[node], folder) for node, ref in asked.items()}
    finally:
        marker.unlink()
    _check_all_or_only_this(answers, ray.get_runtime_context().get_node_id(), addresses, folder)
    return answers


def _on(node_id: str, marker: Path) -> ray.ObjectRef:
    strategy = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return ray.remote(_look).options(num_cpus=0, max_retries=0, scheduling_strategy=strategy).remote(marker)


def _look(marker: Path) -> str:
    """Whether the folder of ``marker`` is here: ``ABSENT``, nothing if it can be written, or else why not."""
    if not marker.exists():
        return ABSENT
    try:
        own = marker.with_name(f"{marker.name}-{socket.gethostname()}-{uuid.uuid4().hex}")
        own.touch()
        own.unlink()
    except OSError as error:
        return str(error.strerror)
    return ""


def _answer(ref: ray.ObjectRef, address: str, folder: Path) -> str:
    try:
        answer = ray.get(ref, timeout=0)
    except RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ResourceError(f"node {address}: cannot run promptfleet, or does not answer ({reason})") from None
    if answer and answer != ABSENT:
        raise ResourceError(f"storage.path={folder}: node {address} cannot write there ({answer})")
    return answer


def _check_all_or_only_this(answers: Mapping[str, str], own: str, addresses: Mapping[str, str], folder: Path) -> None:
    lacking = [node for node, answer in answers.items() if answer == ABSENT]
    others = [node for node, answer in answers.items() if answer != ABSENT and node != own]
    if lacking and others:
        raise ResourceError(
            f"storage.path={folder}: node {addresses[lacking[0]]} does not have this folder, node "
            f"{addresses[others[0]]} does; mount it on every node, or use one that only this node has"
        )
