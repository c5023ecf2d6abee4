"""Test that the fork server never stalls: python benchmarks/fork_server.py --starts 1000

Trials of Ray Tune, each with fresh actors, as a sweep without re-used actors would start them. A lost start takes Ray's
registration time-out, a minute; README.md describes former causes.
"""

import argparse
import json
import os
import tempfile
import time
from typing import Any

from measuring import report
from promptfleet.cluster.session import ray_session

PER_TRIAL = 8
STALL_S = 20.0


class Client:
    """Actor without any work."""

    def parent(self) -> int:
        return os.getppid()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=1000, help="of workers, rounded up to whole trials")
    parser.add_argument("--fork-server", choices=("on", "off"), default="on")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    trials = -(-options.starts // PER_TRIAL)
    began = time.perf_counter()
    with ray_session(fork_server=options.fork_server), tempfile.TemporaryDirectory() as folder:
        starts = run_trials(trials, folder)
    parents = {parent for start in starts for parent in start["parents"]}
    seconds = [start["seconds"] for start in starts]
    row = {
        "starts": trials * PER_TRIAL,
        "parents": len(parents),
        "mean_s_per_trial": sum(seconds) / trials,
        "longest_s": max(seconds),
        "stalls": sum(one > STALL_S for one in seconds),
        "all_s": time.perf_counter() - began,
    }
    report(f"{PER_TRIAL} fresh actors in each of {trials} trials", [row], as_json=options.json)


def run_trials(trials: int, folder: str) -> list[dict[str, Any]]:
    from ray import tune

    bundles = tune.PlacementGroupFactory([{"CPU": 0.1}] + [{"CPU": 0.1}] * PER_TRIAL)
    results = tune.Tuner(
        tune.with_resources(start_actors, bundles),
        tune_config=tune.TuneConfig(num_samples=trials, max_concurrent_trials=1),
        run_config=tune.RunConfig(storage_path=folder, verbose=0),
    ).fit()
    return [json.loads(result.metrics["start"]) for result in results]


def start_actors(config: dict[str, Any]) -> None:
    """Run a trial: start actors and report the seconds and the parents of their processes."""
    import ray
    from ray import tune

    began = time.perf_counter()
    actors = [ray.remote(Client).options(num_cpus=0.1).remote() for _ in range(PER_TRIAL)]
    parents = ray.get([actor.parent.remote() for actor in actors])
    tune.report({"start": json.dumps({"seconds": time.perf_counter() - began, "parents": parents})})


if __name__ == "__main__":
    main()
