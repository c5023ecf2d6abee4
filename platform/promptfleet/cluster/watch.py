"""Watch over the Ray that this process is connected to.

Ray itself ends a driver whose session was killed, but only after a minute, and without a hint at the next step.
Meanwhile every task on it seems to fail by itself.
"""

import os
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from promptfleet.cluster.ray_internals import Address, own_addresses, own_processes
from promptfleet.cluster.session import ray_runs
from promptfleet.errors import FederationError

CHECK_EVERY_S = 1.0
CONNECT_TIMEOUT_S = 5.0
PATIENCE_S = 20.0  # for one that cannot be reached, which may be the network's fault
GONE = 1  # exit status
AGENTS = (b"ray::DashboardAgent", b"ray::RuntimeEnvAgent")


class RayGone(FederationError):
    """The Ray session has died."""


def require_ray() -> None:
    """Raise RayGone if this process's Ray no longer answers."""
    gone = unreachable(own_addresses())
    if gone is not None:
        raise RayGone(f"the Ray session has ended ({gone})")


@contextmanager
def leaving_when_ray_is_gone(hint: str) -> Iterator[None]:
    """End this process, printing ``hint``, as soon as a Ray that it joins or starts in this block has died.

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
    """Return the reason why not all addresses answer, None if they do. Tries again if it may be the network's fault."""
    deadline = time.monotonic() + PATIENCE_S
    for host, port in addresses:
        while True:
            try:
                socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S).close()
                break
            except ConnectionRefusedError:
                return f"no process listens at {host}:{port}"
            except OSError as error:
                if time.monotonic() > deadline:
                    return f"{host}:{port}: {error}"
                time.sleep(CHECK_EVERY_S)
    return None


def _watch(over: threading.Event, hint: str) -> None:
    with closing(Ends()) as ends:
        while not over.is_set():
            ended = ends.wait(_processes() if ray_runs() else {}, CHECK_EVERY_S)
            gone = ended or (unreachable(own_addresses()) if ray_runs() else None)
            if gone is None or not (ended or not over.wait(CHECK_EVERY_S)) or not ray_runs():
                continue  # the last: it is just being shut down
            print(f"error: the Ray session has ended ({gone}); {hint}", file=sys.stderr, flush=True)
            os._exit(GONE)


class Ends:
    """Ends of processes, noticed at once: when one of its agents has ended, Ray ends its driver within 0.3 s."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}  # by descriptor
        self._known: set[int] = set()
        self._poll = select.poll()

    def wait(self, processes: Mapping[int, str], timeout_s: float) -> str | None:
        """Return the name of a process that has ended, of these and of earlier ones; None after ``timeout_s``."""
        for pid in processes.keys() - self._known:
            self._known.add(pid)
            with suppress(OSError, AttributeError):  # it has ended before it was seen; not on Linux
                descriptor = os.pidfd_open(pid)
                self._names[descriptor] = processes[pid]
                self._poll.register(descriptor, select.POLLIN)
        ended = [descriptor for descriptor, _ in self._poll.poll(timeout_s * 1000)]
        names = [self._names.pop(descriptor) for descriptor in ended]
        for descriptor in ended:
            self._poll.unregister(descriptor)
            os.close(descriptor)
        return f"its {names[0]} has ended" if names else None

    def close(self) -> None:
        for descriptor in self._names:
            os.close(descriptor)


def _processes() -> dict[int, str]:
    """Return the processes without which a Ray of this process ends, by process id."""
    found = own_processes()
    for raylet in [pid for pid, kind in found.items() if kind == "raylet"]:
        for path in Path(f"/proc/{raylet}/task").glob("*/children"):
            with suppress(OSError):
                for child in map(int, path.read_text().split()):
                    title = Path(f"/proc/{child}/cmdline").read_bytes().partition(b"\0")[0].strip()
                    if title in AGENTS:
                        found[child] = title.decode().removeprefix("ray::")
    return found
