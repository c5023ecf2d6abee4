"""Ray as a job on one machine needs it: without helper processes, and not to be reached from elsewhere."""

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

HELPERS = ("start_api_server", "start_monitor", "start_log_monitor")


@contextmanager
def without_helpers() -> Iterator[None]:
    """A Ray that ``ray.init`` starts within this block has no dashboard, no autoscaler and nobody to forward its logs.

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
    """A Ray that ``ray.init`` starts within this block listens on the loopback address alone.

    Ray does that by itself on systems other than Linux; an address of 127.0.0.1 that it is given means this machine's
    outward one to it.
    """
    from ray._private import ray_constants

    with replaced(ray_constants, "ENABLE_RAY_CLUSTER", False):
        yield


@contextmanager
def away_from_the_terminal() -> Iterator[None]:
    """A Ray that ``ray.init`` starts within this block is not in this process's group, which a terminal signals.

    It ends with this process all the same.
    """
    from ray._private import services

    start = getattr(services, "ConsolePopen", None)
    with replaced(services, "ConsolePopen", start and partial(start, start_new_session=True)):
        yield


@contextmanager
def own_signals() -> Iterator[None]:
    """``ray.init`` within this block leaves what this process does about SIGTERM as it was.

    Ray would have Python exit, and then a handler in C++ print a stack and abort.
    """
    from ray._private import utils

    kept = signal.getsignal(signal.SIGTERM)
    with replaced(utils, "set_sigterm_handler", lambda handler: None):
        yield
    if kept is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, kept)


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Within this block ``owner`` has another value; none, where another Ray calls it otherwise."""
    if not hasattr(owner, name):
        yield
        return
    kept = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, kept)
