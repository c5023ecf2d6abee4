"""Cost of each method on handwritten digits: python benchmarks/methods.py

Every method runs the same federation in a process of its own, with its default settings and all clients in every round.
The first round is not counted. ``cpu_s`` are seconds of the processor, which other work on the machine hardly changes,
and ``times_promptfl`` is their ratio. A method that samples prompts has a second row, with one sample. Bytes are those
of the real protocol, per client and round; ``peak_mib`` is the peak of the process's resident memory above that before
the federation, whose images are encoded by then.
"""

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch

from measuring import count_peak_anew, peak_mib, report, resident_mib
from promptfleet.federation.local_fleet import LocalFleet
from promptfleet.federation.prepare import prepare
from promptfleet.federation.rounds import Federation
from promptfleet.federation.settings import read_federation_config
from promptfleet.methods import METHODS, config_class, load_method


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="NAME")
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=4, help="at least 2; the first one is not counted")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="more keys of the federation")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error(f"--rounds: got {options.rounds}, should be at least 2")
    rows = []
    with tempfile.TemporaryDirectory() as storage:
        same = [f"clients={options.clients}", f"rounds={options.rounds}", f"storage.path={storage}", *options.set]
        for name in options.methods:
            for title, changes in variants(name).items():
                settings = [*same, f"method={name}", *changes]
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
                    figures = alone.submit(measure, name, settings, options.threads).result()
                rows.append({"method": title, **figures})
                print(f"{title}: {figures['cpu_s']:.2f} s", file=sys.stderr, flush=True)
    of_promptfl = next((row["cpu_s"] for row in rows if row["method"] == "promptfl"), None)
    if of_promptfl:
        rows = [{**row, "times_promptfl": row["cpu_s"] / of_promptfl} for row in rows]
    report("one round of each method", rows, as_json=options.json, clients=options.clients, threads=options.threads)


def variants(name: str) -> dict[str, list[str]]:
    """Return the settings of each row of a method: its defaults and, if it samples prompts, one sample."""
    one_sample = [f"{key}=1" for key in ("train_samples", "test_samples") if key in config_class(name).model_fields]
    return {name: [], **({f"{name}, 1 sample": one_sample} if one_sample else {})}


def measure(name: str, settings: Sequence[str], threads: int) -> dict[str, Any]:
    """Return the figures of one method; the images are encoded and their features in memory before it starts."""
    torch.set_num_threads(threads)
    config = read_federation_config(None, settings)
    prepared = prepare(config)
    count_peak_anew()
    before = resident_mib()
    federation = Federation(config, prepared, LocalFleet(prepared))
    federation.run_round()
    reports, cpu_s = [], []
    for _ in range(config.rounds - 1):
        begun = time.process_time()
        reports.append(federation.run_round())
        cpu_s.append(time.process_time() - begun)
    peak = peak_mib() - before
    messages = sum(len(one.cohort) for one in reports)
    return {
        "cpu_s": statistics.median(cpu_s),
        "round_s": statistics.median(one.seconds for one in reports),
        "train_s": statistics.median(one.client_seconds for one in reports),
        "down_bytes": sum(one.downloaded_bytes for one in reports) // messages,
        "up_bytes": sum(one.uploaded_bytes for one in reports) // messages,
        "peak_mib": peak,
        "trained_parameters": load_method(name).trained_parameters(prepared.world(config)),
    }


if __name__ == "__main__":
    main()
