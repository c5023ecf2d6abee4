"""Starting, joining and leaving Ray: quietly, and with nothing left behind."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from promptfleet.errors import ResourceError
from promptfleet.federation.resources import Node

# Ray reads these when it is imported.
QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_SCHEDULER_EVENTS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
OBJECT_STORE_BYTES = 2**30
CONNECT_TIMEOUT_S = 5.0


def local_nodes() -> list[Node]:
    """This machine as Ray would start on it, without starting it."""
    import torch

    return [Node(float(len(os.sched_getaffinity(0))), float(torch.cuda.device_count()))]


@contextmanager
def ray_session(address: str | None = None) -> Iterator[list[Node]]:
    """Join the cluster at ``address``, or start Ray on this machine; yields the nodes there are.

    A Ray that this process already runs is used as it is and left running. Raises ResourceError if there is nothing at
    ``address``.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import ray

    ours = not ray.is_initialized()
    if ours:
        _init(ray, address)
    try:
        yield [
            Node(node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
            for node in ray.nodes()
            if node["Alive"]
        ]
    finally:
        if ours:
            ray.shutdown()


def _init(ray, address: str | None) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        (node,) = local_nodes()
        ray.init(
            address="local",
            num_cpus=int(node.cpus),
            num_gpus=int(node.gpus),
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            **quiet,
        )
        return
    try:
        _check_reachable(address)
        ray.init(address=address, **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ResourceError(f"--address {address}: no Ray cluster to join ({reason})") from None


def _check_reachable(address: str) -> None:
    """Raise OSError at once where nobody listens; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if port.isdecimal() and "://" not in address:
        with socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S):
            pass
