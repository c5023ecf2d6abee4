"""Ray without the helper processes that a job on one machine has no use for."""

from collections.abc import Iterator
from contextlib import contextmanager

HELPERS = ("start_api_server", "start_monitor", "start_log_monitor")


@contextmanager
def without_helpers() -> Iterator[None]:
    """A Ray that ``ray.init`` starts within this block has no dashboard, no autoscaler and nobody to forward its logs.

    Ray has no setting for that: with ``include_dashboard=False`` it starts the dashboard's process all the same, and
    waits for it. The three take 180 MB and, on two cores, 2 s of the start.
    """
    from ray._private.node import Node

    kept = {name: getattr(Node, name) for name in HELPERS if hasattr(Node, name)}  # another Ray may call them otherwise
    for name in kept:
        setattr(Node, name, lambda node, **settings: None)
    try:
        yield
    finally:
        for name, start in kept.items():
            setattr(Node, name, start)
