"""Run one part of the GPU benchmark: time work on a device, and store each row as soon as it is measured."""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

Row = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """The device to measure, and ``small`` for a rehearsal that any CPU ends in seconds."""

    device: torch.device
    small: bool

    @property
    def on_card(self) -> bool:
        return self.device.type == "cuda"


def run_part(name: str, rows: Callable[[Setting], Iterator[Row]]) -> None:
    """Measure ``rows`` of the part ``name`` and write them to ``--out`` after each one.

    A module or a card that is missing ends the part with its reason under ``left_out``; rows measured before stay.
    """
    parser = argparse.ArgumentParser(prog=f"gpu_parts.{name}")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", type=Path, required=True, help="the file of this part, JSON")
    options = parser.parse_args()
    found: dict[str, Any] = {"part": name, "device": options.device, "small": options.small, "rows": []}
    store(options.out, found)
    if options.device == "cuda" and not torch.cuda.is_available():
        store(options.out, found | {"left_out": "torch sees no CUDA device here"})
        return
    torch.manual_seed(0)
    started = time.perf_counter()
    try:
        with closing(rows(Setting(torch.device(options.device), options.small))) as measured:
            for row in measured:
                found["rows"].append(row)
                store(options.out, found)
                print(f"{name}: {json.dumps(row)}", file=sys.stderr, flush=True)
    except ModuleNotFoundError as error:
        found["left_out"] = f"{error.name} is not installed"
    store(options.out, found | {"complete": "left_out" not in found, "seconds": time.perf_counter() - started})


def store(path: Path, value: Any) -> None:
    """Write JSON so that a kill leaves the old file or the new one, never a part of one."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=1))
    os.replace(partial, path)


def synchronize(device: torch.device) -> None:
    """Wait for all work on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], Any], device: torch.device, *, repeats: int = 5, budget_s: float = 1.0) -> float:
    """Return median seconds of ``work`` until the device is done with it, after one run that does not count.

    Fewer than ``repeats`` runs once they have taken ``budget_s`` seconds together; at least one.
    """
    timed(work, device)
    times = [timed(work, device)]
    while len(times) < repeats and sum(times) < budget_s:
        times.append(timed(work, device))
    return statistics.median(times)


def timed(work: Callable[[], Any], device: torch.device) -> float:
    """Return the seconds of one run of ``work``."""
    synchronize(device)
    started = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - started


def unless_it_does_not_fit(measure: Callable[[], float]) -> float | None:
    """Return the result of ``measure``, or None if the device has too little memory for it."""
    try:
        return measure()
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return None
