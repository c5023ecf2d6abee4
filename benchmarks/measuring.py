"""Helpers of the benchmarks: clocks, memory, tables, the JSON line."""

import ctypes
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

BUDGET_S = 10.0
ACTOR_MIB, FORKED_ACTOR_MIB = 340, 45  # of one that imported torch by itself, and of one that shares its pages


def measure(work: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Return seconds of the fastest of ``repeats`` runs (fewer, once they take ten seconds) and peak memory in MiB.

    The peak is the rise of this process's resident memory in the first run above its start (Linux).
    """
    count_peak_anew()
    resident = _status_kib("VmRSS")
    times = [_seconds(work)]
    peak = peak_mib() - resident / 1024
    while len(times) < repeats and sum(times) < BUDGET_S:
        times.append(_seconds(work))
    return min(times), peak


def count_peak_anew() -> None:
    """Forget the peak so far."""
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before must not hide what is needed
    Path("/proc/self/clear_refs").write_text("5")


def peak_mib() -> float:
    """Return the peak of this process's resident memory (Linux)."""
    return _status_kib("VmHWM") / 1024


def resident_mib() -> float:
    """Return this process's resident memory, after freed memory went back to the system (Linux)."""
    ctypes.CDLL(None).malloc_trim(0)
    return _status_kib("VmRSS") / 1024


def session_pss_mib(mark: str) -> float:
    """Return the proportional memory of processes with ``mark`` (``NAME=value``) in their environment, and children."""
    parents, marked = {}, set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                parents[folder.name] = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                if mark.encode() in (folder / "environ").read_bytes():
                    marked.add(folder.name)
            except OSError:
                continue  # it has ended meanwhile
    return sum(_pss_kib(Path("/proc", pid)) for pid, parent in parents.items() if {pid, parent} & marked) / 1024


def actors_fit(actors: int) -> bool:
    """Return True if this number of actors fits this machine's free memory; prints a line if not."""
    from promptfleet.cluster.fork_server.session import unavailable

    size = FORKED_ACTOR_MIB if unavailable() is None else ACTOR_MIB
    available = next(
        int(line.split()[1]) / 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemAvailable")
    )
    fits = actors * size < available
    if not fits:
        print(f"left out: {actors} actors of {size} MiB do not fit {available:.0f} MiB", file=sys.stderr)
    return fits


def machine() -> str:
    """Return the machine in words: processors, memory, versions."""
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, Python {platform.python_version()}, torch {torch.__version__}"


def report(title: str, rows: Sequence[Mapping[str, Any]], *, as_json: bool, **figures: Any) -> None:
    """Print ``rows`` as a table, or with ``as_json`` everything as one JSON object on the last line."""
    if as_json:
        print(json.dumps({"machine": machine(), "rows": list(rows), **figures}))
        return
    table = Table(title=f"{title} ({machine()})", title_justify="left")
    for name in rows[0]:
        table.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    Console(width=160).print(table)
    for name, value in figures.items():
        print(f"{name.replace('_', ' ')}: {_cell(value)}")


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _status_kib(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    raise KeyError(key)


def _pss_kib(folder: Path) -> int:
    """Return 0 for a process that has ended."""
    try:
        lines = (folder / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
