"""Limits of this machine: settings that it certainly cannot hold are refused before any computation."""

import os
import shutil
from pathlib import Path

from promptfleet.config import FederationConfig
from promptfleet.errors import ResourceError

MOST_THREADS = 64  # allowed on any machine, so that one with fewer CPUs gives another's bits
_CGROUP = Path("/sys/fs/cgroup/memory.max")


def memory_bytes() -> int:
    """Return the memory of this machine, or of the container of this process."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _CGROUP.read_text().strip() if _CGROUP.is_file() else "max"
    return min(machine, int(limit)) if limit.isdecimal() else machine


def check_threads(threads: int, cpus: float, key: str = "runtime.threads_per_client") -> None:
    """Raise ResourceError: more threads than a process of a machine with this many CPUs can use."""
    most = max(MOST_THREADS, int(cpus))
    if threads > most:
        raise ResourceError(f"{key}={threads}: there are {cpus:g} CPUs; set it to {most} or less")


def check_states(config: FederationConfig, numbers: int) -> None:
    """Raise ResourceError: the ``numbers`` (float32) that one client trains do not fit this machine's memory."""
    if 4 * numbers > memory_bytes():
        raise ResourceError(
            f"method={config.method}: a client trains {numbers:g} numbers, which take {size_text(4 * numbers)}; this "
            f"machine has {size_text(memory_bytes())} of memory: lower prompt_length, or the method's own sizes"
        )


def check_views(views: int, *, images: int, dim: int, itemsize: int, pixels: int, batch: int, folder: Path) -> None:
    """Raise ResourceError: the views of a dataset's images cannot be encoded in memory, or stored in ``folder``.

    pixels: of one view. Those of a ``batch`` of images are in memory at once.
    """
    existing = next(parent for parent in [folder, *folder.parents] if parent.exists())
    each = {
        "memory": (4 * 3 * pixels * batch, memory_bytes(), "this machine"),
        "disk": (images * dim * itemsize, shutil.disk_usage(existing).free, str(existing)),
    }
    for what, (bytes_per_view, there, where) in each.items():
        if views * bytes_per_view > there:
            raise ResourceError(
                f"features.views={views}: they take {size_text(views * bytes_per_view)} of {what}, {where} has "
                f"{size_text(there)}; set it to {there // bytes_per_view} or less"
            )


def size_text(count: float) -> str:
    """Return ``24.6 GB`` for a number of bytes."""
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} PB"
