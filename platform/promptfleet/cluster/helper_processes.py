"""Ray for a job on one machine: without helper processes, and unreachable from other machines."""

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

HELPERS = ("start_api_server", "start_monitor", "start_log_monitor")


@contextmanager
def without_helpers() -> Iterator[None]:
    """Start Ray without dashboard, autoscaler and log forwarding, if ``ray.init`` runs within this block.

    Ray has no setting for that: with ``include_dashboard=False`` it starts the dashboard's process all the same, and
    waits for it. The three take 180 MB and, on two cores, 2 s of the start.
    """
    from ray._private.node import Node

    with ExitStack() as stack:
        for name in HELPERS:
            stack.enter_context(replaced(Node, name, lambda node, **settings: None))
        yield


@contextmanager
def on_loopback() -> Iterator[None]:
    """Make a Ray that ``ray.init`` starts within this block listen on the loopback address alone.

    Ray does that by itself on systems other than Linux; for an address of 127.0.0.1 it takes this machine's outward
    one.
    """
    from ray._private import ray_constants

    with replaced(ray_constants, "ENABLE_RAY_CLUSTER", False):
        yield


@contextmanager
def away_from_the_terminal() -> Iterator[None]:
    """Keep a Ray that ``ray.init`` starts within this block out of this process's group, which a terminal signals.

    It ends with this process all the same.
    """
    from ray._private import services

    start = getattr(services, "ConsolePopen", None)
    with replaced(services, "ConsolePopen", start and partial(start, start_new_session=True)):
        yield


@contextmanager
def own_signals() -> Iterator[None]:
    """Keep this process's handler of SIGTERM as it was, although ``ray.init`` runs within this block.

    Ray would make Python exit, and then a handler in C++ print a stack and abort.
    """
    from ray._private import utils

    kept = signal.getsignal(signal.SIGTERM)
    with replaced(utils, "set_sigterm_handler", lambda handler: None):
        yield
    if kept is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, kept)


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
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
