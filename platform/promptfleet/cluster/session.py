"""Sessions of Ray: starting, joining and leaving quietly, without leftovers."""

import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TypeVar

from promptfleet.cluster.access_token import private_token
from promptfleet.cluster.fork_server.session import ForkServer, ForkServerError, start_fork_server, unavailable
from promptfleet.cluster.nodes import Node
from promptfleet.cluster.ray_internals import (
    away_from_the_terminal,
    on_loopback,
    own_signals,
    send_messages_to,
    without_helpers,
)
from promptfleet.cluster.session_folder import ray_folder
from promptfleet.cluster.start_failures import why_not_started
from promptfleet.config import StorageConfig
from promptfleet.devices import gpu_sizes
from promptfleet.disks import check_writable
from promptfleet.errors import ResourceError, first_line
from promptfleet.escaping import encodable

T = TypeVar("T")

logger = logging.getLogger(__name__)

# Ray reads these when it is imported.
QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_SCHEDULER_EVENTS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a process without a share of a GPU sees none
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
    "RAY_TRAIN_COUNT_PREEMPTION_AS_FAILURE": "1",
    "RAY_worker_niceness": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "inf",  # seconds; the state of all trials, from which no sweep is resumed
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
LOGGING = {"log_to_driver": False, "logging_level": logging.ERROR}
OBJECT_STORE_BYTES = 2**30
CONNECT_TIMEOUT_S = 5.0


def local_nodes() -> list[Node]:
    """Return this machine as a node of a Ray that would start on it, without starting it."""
    sizes = gpu_sizes()
    return [Node(float(len(os.sched_getaffinity(0))), float(len(sizes)), gpu_bytes=min(sizes, default=0))]


def ray_runs() -> bool:
    """Return True if this process is connected to Ray; does not import it."""
    is_initialized = getattr(sys.modules.get("ray"), "is_initialized", None)  # another thread may be importing it
    return is_initialized is not None and is_initialized()


@contextmanager
def ray_with(
    prepare: Callable[[], T], address: str | None, *, fork_server: str, storage: StorageConfig
) -> Iterator[tuple[T, list[Node]]]:
    """Give the result of ``prepare``, and the nodes of a ``ray_session``.

    A cluster is joined first, since images are encoded faster there than in this process; a Ray of this machine alone
    is not started before. Raises StorageError first: ``storage`` cannot be written.
    """
    check_writable(storage.folder, named=f"storage.path={storage.path}")
    session = ray_session(address, fork_server=fork_server, storage=storage)
    if address is None:
        prepared = prepare()
        with session as nodes:
            yield prepared, nodes
    else:
        with session as nodes:
            yield prepare(), nodes


@contextmanager
def ray_session(
    address: str | None = None, *, fork_server: str = "auto", storage: StorageConfig | None = None
) -> Iterator[list[Node]]:
    """Join the cluster at ``address``, or start Ray on this machine; yields the nodes there are.

    A Ray that this process already runs is used as it is and left running. fork_server is
    ``RuntimeConfig.fork_server``: a Ray started here has its workers forked unless it is "off". With storage, the
    nodes are asked whether they have what its path names.

    Raises:
        ResourceError: Ray does not start; there is nothing at ``address``; the fork server is "on" and cannot be had
            (on "auto" that is logged); a node cannot use ``storage.path`` as others do.
        ConfigError: ``storage.path`` cannot be written.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import ray

    send_messages_to(lambda lines: logger.debug("ray: %s", lines))
    with ExitStack() as ours:
        if not ray.is_initialized():
            _check_command_line(sys.argv)
            if address is None:
                _start(ray, ours, fork_server)
            else:
                _join(ray, ours, address, fork_server)
        from promptfleet.cluster.storage_nodes import nodes_with_storage

        yield nodes_with_storage(storage)


def _check_command_line(words: Sequence[str]) -> None:
    """Raise ResourceError for a command line that is no UTF-8, which Ray records at its start."""
    odd = [word for word in words if encodable(word) != word]
    if odd:
        raise ResourceError(
            f"{odd[0]}: Ray cannot start from a command line that is no UTF-8; rename that file or folder, or set "
            f"runtime.backend=local"
        )


def _start(ray, session: ExitStack, wanted: str) -> None:
    folder = session.enter_context(ray_folder(OBJECT_STORE_BYTES))
    session.enter_context(private_token())
    fork_server = _fork_server(wanted, folder, session)
    (node,) = local_nodes()
    forked = fork_server.used_by_ray() if fork_server else nullcontext()
    with without_helpers(), on_loopback(), away_from_the_terminal(), own_signals(), forked:
        try:
            ray.init(
                address="local",
                num_cpus=int(node.cpus),
                num_gpus=int(node.gpus),
                object_store_memory=OBJECT_STORE_BYTES,
                _temp_dir=str(folder),
                **LOGGING,
            )
        except Exception as error:  # Ray has no type for a start that fails
            raise ResourceError(why_not_started(error, folder)) from None
    session.callback(ray.shutdown)
    if fork_server:
        try:
            fork_server.wait_until_ready()
        except ForkServerError as error:
            _no_fork_server(wanted, str(error))


def _fork_server(wanted: str, folder: Path, session: ExitStack) -> ForkServer | None:
    """Start a fork server next to Ray, if there can be one and ``wanted`` is not "off"."""
    if wanted == "off":
        return None
    reason = unavailable()
    if reason is None:
        try:
            return session.enter_context(start_fork_server(folder))
        except ForkServerError as error:
            reason = str(error)
    _no_fork_server(wanted, reason)
    return None


def _no_fork_server(wanted: str, reason: str) -> None:
    if wanted == "on":
        raise ResourceError(f"runtime.fork_server=on: there can be no fork server ({reason}); use off")
    logger.info("actors are started one by one, without a fork server: %s", reason)


def _join(ray, session: ExitStack, address: str, fork_server: str) -> None:
    if fork_server == "on":
        raise ResourceError(f"runtime.fork_server=on: the Ray at {address} starts its workers itself; use off")
    try:
        _check_reachable(address)
        with own_signals():
            ray.init(address=address, **LOGGING)
    except (OSError, ValueError, RuntimeError) as error:
        raise ResourceError(f"--address {address}: no Ray cluster to join ({first_line(error)})") from None
    session.callback(ray.shutdown)


def _check_reachable(address: str) -> None:
    """Raise OSError at once if no process listens; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if port.isdecimal() and "://" not in address:
        with socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S):
            pass
