"""The paper's CIFAR-100 federation on one card, in this process: seconds per round, and their parts.

100 clients, a tenth in each round, 100 classes, 16 context tokens, ViT-B/16's text tower with random weights, stored
features. The published schedule has 120 rounds.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

from gpu_parts.cifar100 import make_inputs, paper_config
from gpu_parts.part import Row, Setting, run_part, synchronize
from promptfleet.federation.local_fleet import LocalFleet
from promptfleet.federation.rounds import Federation

ROUNDS, PAPER_ROUNDS = 10, 120
STAGES = ("select", "train", "aggregate", "evaluate")


class TimedFleet:
    """A fleet that adds up the seconds of each stage of a round, until the device is done with it."""

    def __init__(self, fleet: LocalFleet, setting: Setting):
        self._fleet, self._setting = fleet, setting
        self.seconds = dict.fromkeys(STAGES, 0.0)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        work = getattr(self._fleet, name)
        if name not in STAGES:
            return work

        def timed(*arguments: Any) -> Any:
            started = time.perf_counter()
            try:
                return work(*arguments)
            finally:
                synchronize(self._setting.device)
                self.seconds[name] += time.perf_counter() - started

        return timed


def rows(setting: Setting) -> Iterator[Row]:
    runtime = {"backend": "local", "device": setting.device.type}
    config = paper_config(setting, runtime=runtime)
    with tempfile.TemporaryDirectory() as folder:
        prepared = make_inputs(Path(folder), setting)
        with closing(LocalFleet(prepared)) as inner:
            fleet = TimedFleet(inner, setting)
            federation = Federation(config, prepared, fleet)
            times, stages = [], []
            for index in range(2 if setting.small else ROUNDS):
                before, started = dict(fleet.seconds), time.perf_counter()
                federation.run_round()
                times.append(time.perf_counter() - started)
                stages.append({stage: fleet.seconds[stage] - before[stage] for stage in STAGES})
                yield {"round": index + 1, "seconds": times[-1], **stages[-1]}
            usual = statistics.median(times[1:])
            yield {"what": "a round", "seconds": usual, f"seconds_of_{PAPER_ROUNDS}": usual * PAPER_ROUNDS}
            yield from _profiled(setting, federation)


def _profiled(setting: Setting, federation: Federation) -> Iterator[Row]:
    """One more round under torch's profiler: how long the card is busy, and the kernels that take longest."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if setting.on_card else [])]
    started = time.perf_counter()
    with profile(activities=activities) as profiler:
        federation.run_round()
        synchronize(setting.device)
    wall_s = time.perf_counter() - started
    kind = "self_device_time_total" if setting.on_card else "self_cpu_time_total"
    events = sorted(profiler.key_averages(), key=lambda event: -getattr(event, kind))
    busy_s = sum(getattr(event, kind) for event in events) / 1e6
    yield {"what": "profile", "seconds": wall_s, "busy_s": busy_s, "events": sum(event.count for event in events)}
    for event in events[:15]:
        yield {"what": "profile", "name": event.key, "count": event.count, "ms": getattr(event, kind) / 1e3}


if __name__ == "__main__":
    run_part("federation", rows)
