"""Time of a job to its first round, and its memory: python benchmarks/startup.py

Runs jobs/train.py as a user would (pFedMoAP on digits, two rounds) and sums the proportional set size of all of its
processes, Ray's own included, once a second.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from measuring import actors_fit, report, session_pss_mib
from promptfleet.federation.checkpoints.folder import RESULT_FILE
from promptfleet.federation.reports import summary_from_json

TRAIN = Path(__file__).resolve().parents[1] / "jobs" / "train.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, nargs="+", default=(10, 100))
    parser.add_argument("--clients-per-actor", type=int, nargs="+", default=(1, 50))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="more keys of the federation")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as storage:
        run(storage, 2, 1, [*options.set, "runtime.backend=local"])  # encodes the images, which is done once
        rows = [
            run(storage, clients, packing, options.set)
            for clients in options.clients
            for packing in options.clients_per_actor
            if packing <= clients and actors_fit(clients // packing)
        ]
    report("start of a federation", rows, as_json=options.json)


def run(
    storage: str, clients: int, clients_per_actor: int, assignments: Sequence[str], *, rounds: int = 2
) -> dict[str, float]:
    """Run one job from its start to its end; the rounds' seconds are the median of their second half."""
    out = Path(storage) / f"{clients}-{clients_per_actor}"
    settings = [
        *assignments,
        f"clients={clients}",
        f"rounds={rounds}",
        "partition.kind=iid",
        f"runtime.clients_per_actor={clients_per_actor}",
        f"storage.path={storage}",
    ]
    mark = f"PROMPTFLEET_BENCHMARK={uuid.uuid4().hex}"
    environment = os.environ | dict([mark.split("=")])
    command = [
        sys.executable,
        str(TRAIN),
        "--out",
        str(out),
        *(part for setting in settings for part in ("--set", setting)),
    ]
    started = time.perf_counter()
    with subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as job:
        peak = Peak(mark)
        first = next((time.perf_counter() - started for line in job.stderr if line.startswith("round 1/")), None)
        rest = job.stderr.read()
        peak.stop()
        if job.wait() != 0 or first is None:
            raise SystemExit(f"{' '.join(command)}\n{rest}")
    job_s = time.perf_counter() - started
    seconds = [report.seconds for report in summary_from_json((out / RESULT_FILE).read_text()).rounds]
    return {
        "clients": clients,
        "clients_per_actor": clients_per_actor,
        "first_round_after_s": first,
        "round_s": statistics.median(seconds[rounds // 2 :]),
        "job_s": job_s,
        "peak_pss_mib": peak.mib,
    }


class Peak(threading.Thread):
    """Watcher of a session's memory, until it is stopped."""

    def __init__(self, mark: str):
        super().__init__(daemon=True)
        self.mib = 0.0
        self._mark, self._end = mark, threading.Event()
        self.start()

    def run(self) -> None:
        while not self._end.wait(1.0):
            self.mib = max(self.mib, session_pss_mib(self._mark))

    def stop(self) -> None:
        self._end.set()
        self.join()


if __name__ == "__main__":
    main()
