"""Speed-up of trials that run at the same time: python benchmarks/side_by_side.py

One search of the same trials twice: one at a time, and with ``concurrent_trials: auto`` on GPUs that only Ray believes
in, or one for each of this machine's cores. On the pretended GPUs a client that trains waits, as a process whose card
computes does; on the cores it trains a prompt. Reports the seconds from the first trial's proposal to the last one's
end, with the start of the actors and without that of Ray.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

from measuring import report
from noop import NoOp
from promptfleet.cluster.nodes import Node
from promptfleet.cluster.session import ray_with
from promptfleet.federation.prepare import prepare
from promptfleet.search.folders import SWEEPS
from promptfleet.search.spec import SweepSpec, parse_sweep
from promptfleet.search.sweep import concurrent_trials, open_study, run_sweep

WAIT_S = 0.5
CLIENTS_PER_ACTOR = 2


class Waiting(NoOp):
    """Method whose clients wait instead of training, as for a card that computes."""

    def local_update(self, task):
        time.sleep(WAIT_S)
        return super().local_update(task)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--gpus", type=int, default=4, help="pretended ones")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    waiting = {"method": "side_by_side:Waiting", "runtime": {"clients_per_actor": CLIENTS_PER_ACTOR}}
    waiting["resources"] = {"client": {"gpu": 1.0}}
    training = {"method": "promptfl", "local_epochs": 3, "runtime": {"clients_per_actor": CLIENTS_PER_ACTOR}}
    rows = []
    for name, federation, node, concurrent in (
        (f"{options.gpus} pretended GPUs, auto", waiting, Node(cores, options.gpus), "auto"),
        (f"{cores} cores, {cores} trials", training, Node(cores, 0), cores),
    ):
        alone, _ = seconds(federation, node, 1, options)
        together, at_once = seconds(federation, node, concurrent, options)
        found = {"alone_s": alone, "together_s": together, "speed_up": alone / together}
        rows.append({"on": name, "trials": options.trials, "at_once": at_once, **found})
    report("trials at the same time", rows, as_json=options.json)


def seconds(
    federation: dict[str, Any], node: Node, concurrent: int | str, options: argparse.Namespace
) -> tuple[float, int]:
    """Return the seconds of a search's trials, and how many of them run at the same time."""
    with tempfile.TemporaryDirectory() as storage, patch("promptfleet.cluster.session.local_nodes", lambda: [node]):
        spec = parse_sweep(search(federation, concurrent, storage, options), source="benchmark")
        config = spec.base_config()
        session = ray_with(lambda: prepare(*spec.all_configs()), None, fork_server="auto", storage=config.storage)
        with (
            session as (prepared, nodes),
            SWEEPS.create(spec.to_dict(), config.storage, name="a", default_name="a") as folder,
        ):
            run_sweep(spec, folder, prepared, nodes)
            return span(spec, folder), concurrent_trials(spec, nodes)


def search(
    federation: dict[str, Any], concurrent: int | str, storage: str, options: argparse.Namespace
) -> dict[str, Any]:
    """Return a search of random learning rates, none of them stopped early."""
    shared = {"clients": 2, "rounds": options.rounds, "partition": {"kind": "iid"}, "storage": {"path": storage}}
    return {
        "trials": options.trials,
        "concurrent_trials": concurrent,
        "sampler": "random",
        "pruner": "none",
        "federation": {**shared, **federation},
        "space": {"prompt_lr": {"float": [0.01, 0.1]}},
    }


def span(spec: SweepSpec, folder: Path) -> float:
    """Return the seconds from the first trial's proposal to the last one's end, with the start of the actors."""
    trials = open_study(spec, folder).trials()
    began = min(trial.datetime_start for trial in trials)
    return (max(trial.datetime_complete for trial in trials) - began).total_seconds()


if __name__ == "__main__":
    main()
