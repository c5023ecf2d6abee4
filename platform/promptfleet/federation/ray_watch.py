"""Whether the Ray that this process is connected to is still there.

Ray itself ends a driver whose session was killed, but only after a minute, and without a word of what to do next.
Meanwhile everything that runs on it seems to fail by itself.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from promptfleet.errors import FederationError
from promptfleet.escaping import printable
from promptfleet.federation.ray_session import ray_runs

CHECK_EVERY_S = 1.0
CONNECT_TIMEOUT_S = 5.0
PATIENCE_S = 20.0  # for one that cannot be reached, which a network may be to blame for
GONE = 1  # exit status

Address = tuple[str, int]


class RayGone(FederationError):
    """The Ray session has died."""


def require_ray() -> None:
    """Raise RayGone if nobody answers where this process's Ray was."""
    gone = unreachable(_addresses())
    if gone is not None:
        raise RayGone(f"the Ray session is gone ({gone})")


@contextmanager
def leaving_when_ray_is_gone(hint: str) -> Iterator[None]:
    """End this process, saying ``hint``, as soon as a Ray that it joins or starts in this block has died.

    Ctrl-C leaves the block with ``hint`` as well, as the KeyboardInterrupt's text.
    """
    over = threading.Event()
    threading.Thread(target=_watch, args=(over, hint), name="promptfleet-ray-watch", daemon=True).start()
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(hint) from None
    finally:
        over.set()


def unreachable(addresses: list[Address]) -> str | None:
    """Why not all of the addresses answer, None if they do. Tries again where it may be the network's fault."""
    deadline = time.monotonic() + PATIENCE_S
    for host, port in addresses:
        while True:
            try:
                socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S).close()
                break
            except ConnectionRefusedError:
                return f"nobody listens at {host}:{port}"
            except OSError as error:
                if time.monotonic() > deadline:
                    return f"{host}:{port}: {error}"
                time.sleep(CHECK_EVERY_S)
    return None


def _watch(over: threading.Event, hint: str) -> None:
    while not over.wait(CHECK_EVERY_S):
        if not ray_runs():
            continue
        gone = unreachable(_addresses())
        if gone is not None and not over.wait(CHECK_EVERY_S) and ray_runs():  # and not just being shut down
            print(printable(f"error: the Ray session is gone ({gone}); {hint}"), file=sys.stderr, flush=True)
            os._exit(GONE)


def _addresses() -> list[Address]:
    """Of the cluster's control and of this machine's part of Ray, without asking them."""
    from ray._private.worker import global_worker

    node = global_worker.node
    if node is None:  # of a remote client
        return []
    host, _, port = node.gcs_address.rpartition(":")
    return [(host, int(port)), (node.node_ip_address, node.node_manager_port)]
