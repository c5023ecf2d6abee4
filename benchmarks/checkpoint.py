"""Cost of a checkpoint after each round: python benchmarks/checkpoint.py

A federation of pFedMoAP on the digits in this process: seconds of its rounds, of writing their checkpoints in a
second thread, and of the rounds' waiting for that. A checkpoint has the private states of the clients that trained.
"""

import argparse
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path

from measuring import report
from promptfleet.federation.checkpoints.folder import FederationFolder
from promptfleet.federation.local_fleet import LocalFleet
from promptfleet.federation.prepare import prepare
from promptfleet.federation.rounds import Federation
from promptfleet.federation.settings import federation_config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=(10, 100))
    parser.add_argument("--participation", type=float, nargs="+", default=(0.1, 1.0))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            measure_rounds(clients, participation, options.rounds, Path(folder))
            for clients in options.clients
            for participation in options.participation
        ]
    report("checkpoints", rows, as_json=options.json)


def measure_rounds(clients: int, participation: float, rounds: int, folder: Path) -> dict[str, float]:
    """Return medians over the rounds but the first, which also writes the states of clients that never trained."""
    config = federation_config(
        {
            "clients": clients,
            "participation": participation,
            "rounds": 2 * rounds + 1,
            "partition": {"kind": "iid"},
            "storage": {"path": str(folder)},
        }
    )
    prepared = prepare(config)
    round_s, write_s, waited_s, sizes = [], [], [], []
    with closing(LocalFleet(prepared)) as fleet:
        federation = Federation(config, prepared, fleet)
        with closing(FederationFolder(folder / f"{clients}-{participation}", federation)) as stored:
            federation.run_round()
            stored.save()
            stored.flush()
            first = stored.last.bytes
            for _ in range(rounds):
                round_s.append(federation.run_round().seconds)
                started = time.perf_counter()
                stored.save()
                waited_s.append(time.perf_counter() - started)
            for _ in range(rounds):
                stored.flush()
                federation.run_round()
                stored.save()
                stored.flush()
                write_s.append(stored.last.seconds)
                sizes.append(stored.last.bytes)
    median = statistics.median(round_s)
    return {
        "clients": clients,
        "participation": participation,
        "round_s": median,
        "first_mb": first / 1e6,
        "checkpoint_mb": statistics.median(sizes) / 1e6,
        "write_s": statistics.median(write_s),
        "write_percent_of_round": 100 * statistics.median(write_s) / median,
        "round_waits_ms": 1000 * statistics.median(waited_s),
    }


if __name__ == "__main__":
    main()
