"""Cost of a long search for its driver, with Ray and MLflow: python benchmarks/long_sweep.py

Runs jobs/tune.py with tiny trials, eight at once, none stopped early, and looks at the process of the driver from
outside whenever fifty more trials have ended: CPU time per trial, of all its threads and of the main thread alone, on
which trials wait; its memory; and the sizes of the study and of MLflow's database.
"""

import argparse
import os
import sqlite3
import subprocess
import tempfile
import time
from contextlib import closing
from pathlib import Path

from measuring import report
from promptfleet.search.study_file import FILE as STUDY_FILE
from tuning import end_tune, start_tune, sweep_folder

EVERY = 50
POLL_S = 0.5
TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--every", type=int, default=EVERY)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        storage = Path(folder)
        job = start_tune(storage, search(options))
        rows = watch(storage, job, options.trials, options.every)
        end_tune(storage, job)
    growth = rows[-1]["memory_mib"] / rows[0]["memory_mib"] - 1
    report(f"a search of {options.rounds} rounds, {options.at_once} at once", rows, as_json=options.json, growth=growth)


def search(options: argparse.Namespace) -> dict:
    """Return a search of federations of two clients that train for one epoch a round."""
    federation = {
        "method": "promptfl",
        "clients": 2,
        "rounds": options.rounds,
        "local_epochs": 1,
        "partition": {"kind": "iid", "shots": 1},
        "runtime": {"clients_per_actor": 2},
    }
    return {
        "trials": options.trials,
        "concurrent_trials": options.at_once,
        "pruner": "none",
        "federation": federation,
        "space": {"prompt_lr": {"float": [0.01, 0.5], "log": True}, "batch_size": {"int": [8, 32]}},
    }


def watch(storage: Path, job: subprocess.Popen, trials: int, every: int) -> list[dict[str, float]]:
    """Return a row for each ``every`` trials that have ended, until all have or the job ends."""
    rows: list[dict[str, float]] = []
    began, before = 0, _figures(job.pid)
    while job.poll() is None and began < trials:
        time.sleep(POLL_S)
        ended = _ended(sweep_folder(storage) / STUDY_FILE)
        if not ended:
            before = _figures(job.pid)
        if ended >= min(began + every, trials):
            now = _figures(job.pid)
            each = {name: (now[name] - before[name]) / (ended - began) for name in ("seconds", "cpu_s", "main_cpu_s")}
            sizes = {"study_mib": _mib(sweep_folder(storage) / STUDY_FILE), "mlflow_mib": _mib(storage / "mlflow.db")}
            rows.append({"trials": ended, **each, "memory_mib": now["memory_mib"], **sizes})
            began, before = ended, now
    return rows


def _ended(study: Path) -> int:
    """Return the number of trials that have ended, 0 before there is a study."""
    try:
        with closing(sqlite3.connect(f"file:{study}?mode=ro", uri=True, timeout=5)) as database:
            ((count,),) = database.execute("SELECT count(*) FROM trials WHERE state IN ('COMPLETE', 'PRUNED', 'FAIL')")
            return count
    except sqlite3.OperationalError:
        return 0


def _figures(pid: int) -> dict[str, float]:
    """Return the seconds now, and CPU seconds and resident memory of a process so far."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    (resident,) = [int(line.split()[1]) for line in status if line.startswith("VmRSS")]
    cpu = {"cpu_s": _cpu_s(Path(f"/proc/{pid}/stat")), "main_cpu_s": _cpu_s(Path(f"/proc/{pid}/task/{pid}/stat"))}
    return {"seconds": time.monotonic(), **cpu, "memory_mib": resident / 1024}


def _cpu_s(stat: Path) -> float:
    user, system = stat.read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / TICKS


def _mib(path: Path) -> float:
    return path.stat().st_size / 2**20


if __name__ == "__main__":
    main()
