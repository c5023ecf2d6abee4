"""Growth of a federation's cost with its clients: python benchmarks/scale.py

pFedMoAP on handwritten digits, a tenth of the clients in each round, all of them evaluated after it. Every client has
20 images, drawn with replacement from the 1,797 there are: speed is measured here, not accuracy. Two runs for each
number of clients packed into one actor per core: a job from its start to its end with the memory of all its processes,
and a run with clocks in its actors, which shows the clients' own share of a round. A third run is a job with an actor
for each client, as long as they fit.
"""

import argparse
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import ray
from PIL import Image

import startup
from measuring import actors_fit, report
from promptfleet.cluster.session import ray_session
from promptfleet.config import FederationConfig
from promptfleet.data.datasets.digits import CLASS_NAMES, read_digits
from promptfleet.federation.checkpoints.folder import FederationFolder
from promptfleet.federation.on_ray.actors import ClientActor, ServerActor
from promptfleet.federation.prepare import Prepared, prepare
from promptfleet.federation.resources import plan_shares
from promptfleet.federation.rounds import Federation
from promptfleet.federation.settings import read_federation_config
from promptfleet.seeding import stream

IMAGES_PER_CLIENT = 20
MOST_ACTORS = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=(10, 30, 100, 300, 1000))
    parser.add_argument("--rounds", type=int, default=24, help="of which the second half counts")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="more keys of the federation")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    jobs, rounds = [], []
    with tempfile.TemporaryDirectory() as folder:
        for clients in options.clients:
            packed = math.ceil(clients / len(os.sched_getaffinity(0)))
            settings = [*options.set, *draw_digits(Path(folder) / "data", clients)]
            say(f"{clients} clients: encoding their images")
            config = configuration(clients, packed, [*settings, f"storage.path={folder}", f"rounds={options.rounds}"])
            prepared = prepare(config)
            for packing in (packed, 1) if clients <= MOST_ACTORS and actors_fit(clients) else (packed,):
                say(f"{clients} clients: a job with {packing} in an actor")
                jobs.append(startup.run(folder, clients, packing, settings, rounds=options.rounds))
            say(f"{clients} clients: where a round goes")
            rounds.append(where_a_round_goes(config, prepared, Path(folder) / f"clocks-{clients}", options.rounds))
    if options.json:
        report("jobs", jobs, as_json=True, where_a_round_goes=rounds)
    else:
        report("jobs", jobs, as_json=False)
        report("where a round goes, packed into an actor per core", rounds, as_json=False)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def draw_digits(root: Path, clients: int) -> list[str]:
    """Write 20 images per client as a folder of images; return the settings that name it and the participation."""
    pixels, labels = read_digits()
    name, drawn = f"digits-{clients}", stream(0, "benchmark").integers(len(labels), size=IMAGES_PER_CLIENT * clients)
    for number, sample in enumerate(drawn):
        path = root / name / "train" / CLASS_NAMES[labels[sample]] / f"{number:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[sample]).save(path)
    return ["dataset=imagefolder", f"data.root={root}", f"data.folder={name}", "participation=0.1"]


def configuration(clients: int, clients_per_actor: int, settings: list[str]) -> FederationConfig:
    own = [f"clients={clients}", "partition.kind=iid", f"runtime.clients_per_actor={clients_per_actor}"]
    return read_federation_config(None, [*settings, *own])


class Clock:
    """Wrapper that adds up the processor seconds of calls: waiting for a processor is not computing."""

    def __init__(self, inner: Any):
        self._inner, self.seconds = inner, 0.0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            started = time.thread_time()
            try:
                return getattr(self._inner, name)(*arguments)
            finally:
                self.seconds += time.thread_time() - started

        return timed


class TimedClientActor(ClientActor):
    """Client actor that counts the seconds of local updates and evaluations, without the transport of inputs."""

    def begin(self, *arguments: Any) -> None:
        super().begin(*arguments)
        self._group = Clock(self._group)

    def seconds(self) -> float:
        return self._group.seconds


class TimedServerActor(ServerActor):
    """Server actor that counts the seconds of selection and aggregation."""

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.spent = 0.0

    def select(self, *arguments: Any) -> Any:
        return self._timed(super().select, *arguments)

    @ray.method(num_returns=2)
    def aggregate(self, *arguments: Any) -> Any:
        return self._timed(super().aggregate, *arguments)

    def seconds(self) -> float:
        return self.spent

    def _timed(self, work: Callable[..., Any], *arguments: Any) -> Any:
        started = time.perf_counter()
        try:
            return work(*arguments)
        finally:
            self.spent += time.perf_counter() - started


def where_a_round_goes(config: FederationConfig, prepared: Prepared, folder: Path, rounds: int) -> dict[str, float]:
    """Return medians over the second half of the rounds; ``clients_s`` is a mean over the parallel actors."""
    spent = []
    with timed_fleet(config, prepared) as (fleet, processes):
        federation = Federation(config, prepared, fleet)
        with closing(FederationFolder(folder, federation)) as stored:
            before = seconds_of(processes)
            for _ in range(rounds):
                round_s = federation.run_round().seconds
                after = seconds_of(processes)
                spent.append((round_s, *(now - then for now, then in zip(after, before, strict=True))))
                before = after
            stored.save()  # with the states of all clients, of which the rounds after it write those that trained
            writes = []
            for _ in range(3):
                federation.run_round()
                stored.save()
                stored.flush()
                writes.append(stored.last.seconds)
            checkpoint_bytes = stored.last.bytes
    round_s, server_s, clients_s = (statistics.median(part) for part in zip(*spent[rounds // 2 :], strict=True))
    return {
        "clients": config.clients,
        "round_s": round_s,
        "clients_s": clients_s,
        "server_s": server_s,
        "overhead_percent": 100 * (round_s - clients_s) / round_s,
        "checkpoint_mb": checkpoint_bytes / 1e6,
        "write_s": statistics.median(writes),
    }


def seconds_of(processes: Any) -> tuple[float, float]:
    """Return the seconds so far: the server's, and the mean of the client actors'."""
    server, *clients = ray.get([actor.seconds.remote() for actor in (processes.server, *processes.clients)])
    return server, statistics.fmean(clients)


@contextmanager
def timed_fleet(config: FederationConfig, prepared: Prepared) -> Iterator[tuple[Any, Any]]:
    """Give a fleet whose actors have clocks, and its processes."""
    from promptfleet.federation.on_ray import fleet as ray_fleet
    from promptfleet.federation.on_ray import processes as ray_processes

    with (
        ray_session() as nodes,
        patch.object(ray_processes, "ClientActor", TimedClientActor),
        patch.object(ray_processes, "ServerActor", TimedServerActor),
    ):
        frozen, shares = ray_fleet.put_frozen(prepared), plan_shares(config, nodes)
        with closing(ray_fleet.RayFleet(frozen, shares, start_timeout_s=300, own_group=True)) as fleet:
            yield fleet, fleet._processes


if __name__ == "__main__":
    main()
