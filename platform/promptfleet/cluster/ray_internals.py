"""The private parts of Ray that this package uses, all in one place.

They were written for Ray ``MEASURED_WITH``. On another version the fork server is not used, and a part that this Ray
lacks is left as it is.
"""

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from importlib.metadata import version
from typing import Any

MEASURED_WITH = "2.60.0"
WORKER_MODULES = ("ray", "ray.actor", "ray.util", "ray._private.worker", "ray._private.ray_logging", __name__)
HELPERS = ("start_api_server", "start_monitor", "start_log_monitor")

Address = tuple[str, int]


@cache
def other_version() -> str | None:
    """Return the version of Ray if it is not the one that this module was written for."""
    found = version("ray")
    return None if found == MEASURED_WITH else found


# The start of Ray


@contextmanager
def without_helpers() -> Iterator[None]:
    """Start Ray without dashboard, autoscaler and log forwarding, if ``ray.init`` runs within this block.

    Ray has no setting for that: with ``include_dashboard=False`` it starts the dashboard's process all the same, and
    waits for it. The three take 180 MB and, on two cores, 2 s of the start.
    """
    from ray._private.node import Node

    with ExitStack() as stack:
        for name in HELPERS:
            stack.enter_context(_replaced(Node, name, lambda node, **settings: None))
        yield


@contextmanager
def on_loopback() -> Iterator[None]:
    """Make a Ray that ``ray.init`` starts within this block listen on the loopback address alone.

    Ray does that by itself on systems other than Linux; for an address of 127.0.0.1 it takes this machine's outward
    one.
    """
    from ray._private import ray_constants

    with _replaced(ray_constants, "ENABLE_RAY_CLUSTER", False):
        yield


@contextmanager
def away_from_the_terminal() -> Iterator[None]:
    """Keep a Ray that ``ray.init`` starts within this block out of this process's group, which a terminal signals.

    It ends with this process all the same.
    """
    from ray._private import services

    start = getattr(services, "ConsolePopen", None)
    with _replaced(services, "ConsolePopen", start and partial(start, start_new_session=True)):
        yield


@contextmanager
def own_signals() -> Iterator[None]:
    """Keep this process's handler of SIGTERM as it was, although ``ray.init`` runs within this block.

    Ray would make Python exit, and then a handler in C++ print a stack and abort.
    """
    from ray._private import utils

    kept = signal.getsignal(signal.SIGTERM)
    with _replaced(utils, "set_sigterm_handler", lambda handler: None):
        yield
    if kept is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, kept)


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Replace the value of ``owner.name`` within this block; nothing happens if this Ray lacks the name."""
    if not hasattr(owner, name):
        yield
        return
    kept = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, kept)


def send_messages_to(note: Callable[[str], None]) -> None:
    """Pass messages that Ray would print at any log level to ``note``, such as that it started many processes."""
    from ray._private import worker

    def receive(message: Mapping[str, Any], **_: Any) -> None:
        note(message.get("lines"))

    worker.print_to_stdstream = receive


# A running Ray


def own_processes() -> dict[int, str]:
    """Return the kind of each process of Ray that this process started, by process id."""
    from ray._private.worker import global_worker

    own = getattr(global_worker.node, "all_processes", {})
    return {one.process.pid: kind for kind, several in list(own.items()) for one in several}


def own_addresses() -> list[Address]:
    """Return the addresses of the cluster's control and of this machine's part of Ray, without asking them."""
    from ray._private.worker import global_worker

    node = global_worker.node
    if node is None:  # of a remote client
        return []
    host, _, port = node.gcs_address.rpartition(":")
    return [(host, int(port)), (node.node_ip_address, node.node_manager_port)]


def actor_id(actor: Any) -> str:
    """Return the id of an actor's handle as Ray's errors have it."""
    return actor._actor_id.hex()


# A worker that is forked


def before_main_loop(report: Callable[[], None]) -> None:
    """Make a worker call ``report`` when it starts to wait for work: Ray knows it then, and notices its end at once."""
    from ray._private.worker import Worker

    main_loop = Worker.main_loop

    def report_first(worker: Worker) -> None:
        report()
        main_loop(worker)

    Worker.main_loop = report_first


def read_settings_again() -> None:
    """Read Ray's settings and token from the environment again; it keeps those of its import."""
    from ray._raylet import AuthenticationTokenLoader, Config

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
