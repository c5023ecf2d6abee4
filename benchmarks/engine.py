"""Cost of a round without the clients' own work: python benchmarks/engine.py

Rounds of clients that do nothing (select, train, aggregate, evaluate all clients), in this process, with one actor per
client, and packed into as many actors as there are cores.
"""

import argparse
import math
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from measuring import actors_fit, report
from promptfleet.clip.frozen import FrozenClip
from promptfleet.clip.prompt_layout import ClassTokens
from promptfleet.clip.text_tower import TextTower
from promptfleet.cluster.session import ray_session
from promptfleet.config import FederationConfig
from promptfleet.data.feature_store import write_features
from promptfleet.federation.fleet import Fleet
from promptfleet.federation.local_fleet import LocalFleet
from promptfleet.federation.prepare import Prepared
from promptfleet.federation.resources import plan_shares
from promptfleet.federation.rounds import Federation
from promptfleet.federation.settings import federation_config

CLASSES, DIM, SAMPLES_PER_CLIENT = 10, 512, 20
MODES = ("local", "one each", "packed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, nargs="+", default=(10, 100, 1000))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for clients in options.clients:
            prepared = make_inputs(Path(folder) / str(clients), clients)
            for mode in options.modes:
                if mode != "one each" or actors_fit(clients):
                    milliseconds = round_milliseconds(make_config(clients, mode), prepared, options.rounds)
                    rows.append({"clients": clients, "mode": mode, **milliseconds})
    report("a round of clients that do nothing", rows, as_json=options.json)


def make_inputs(folder: Path, clients: int) -> Prepared:
    """Return random features for all clients, and a CLIP that none of them uses."""
    rng = np.random.default_rng(0)
    labels = np.arange(clients * SAMPLES_PER_CLIENT) % CLASSES
    features = rng.normal(size=(len(labels), DIM)).astype(np.float32)
    path = write_features(folder, {"features": "random"}, features, labels)
    tower = TextTower(
        {"positional_embedding": torch.zeros(77, 512), "text_projection": torch.zeros(512, DIM)}, 0, 8, False
    )
    tokens = ClassTokens(torch.zeros(512), torch.zeros(CLASSES, 3, 512), torch.full((CLASSES,), 3))
    clip = FrozenClip(tower, tokens, torch.zeros(CLASSES, DIM), 100.0)
    return Prepared(clip, path, tuple(f"class {label}" for label in range(CLASSES)))


def make_config(clients: int, mode: str) -> FederationConfig:
    runtime: dict[str, Any] = {"backend": "local" if mode == "local" else "ray"}
    if mode == "packed":
        runtime["clients_per_actor"] = math.ceil(clients / len(os.sched_getaffinity(0)))
    partition = {"kind": "iid"}
    return federation_config({"method": "noop:NoOp", "clients": clients, "partition": partition, "runtime": runtime})


def round_milliseconds(config: FederationConfig, prepared: Prepared, rounds: int) -> dict[str, float]:
    """Return median and worst of ``rounds`` rounds, after three that do not count."""
    for fleet in fleets(config, prepared):
        federation = Federation(config, prepared, fleet)
        times = []
        for _ in range(3 + rounds):
            started = time.perf_counter()
            federation.run_round()
            times.append(1000 * (time.perf_counter() - started))
    return {"median_ms": statistics.median(times[3:]), "worst_ms": max(times[3:])}


def fleets(config: FederationConfig, prepared: Prepared) -> Iterator[Fleet]:
    """Give the one fleet of the configuration, and end it afterwards."""
    if config.runtime.backend == "local":
        with closing(LocalFleet(prepared)) as fleet:
            yield fleet
        return
    with ray_session() as nodes:
        from promptfleet.federation.on_ray.fleet import RayFleet, put_frozen

        shares = plan_shares(config, nodes)
        with closing(RayFleet(put_frozen(prepared), shares, start_timeout_s=300, own_group=True)) as fleet:
            yield fleet


if __name__ == "__main__":
    main()
