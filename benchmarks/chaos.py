"""Shoot at processes of running jobs at random and see that nothing is lost: python benchmarks/chaos.py --kills 200

Three jobs of short federations run undisturbed: a sweep, a grid with two federations side by side, and a comparison.
The same jobs then run again and again while their processes get SIGKILL, SIGTERM, SIGHUP, or SIGSTOP and SIGCONT at
seeded moments: client actors, the server, the trial, the driver (then the job is resumed, and may be hit while it
resumes), Ray's own processes, and the fork server. In the end every federation must have the very bits of the
undisturbed one, every round must be there once, in the files and in MLflow, and no process may be left. All that the
jobs wrote, their output and the shots (kills.txt) are kept in --keep DIR, or in a folder that is named if something was
wrong.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import yaml

from chaos_comparison import Tally, compare
from chaos_processes import SIGNALS, TITLES, WEIGHTS, Job, aim, living
from measuring import report

FEDERATION = {"clients": 3, "rounds": 4, "local_epochs": 1, "prompt_length": 4, "runtime": {"retries": 20}}
TEMPERATURES = {"float": [0.02, 1.0], "log": True}
STALLED_S = 600.0
EARLY = 0.1  # chance, at each look, that a driver which resumes is hit before it has a client


@dataclass(frozen=True)
class Disturbed:
    """Job to disturb: its script, its arguments but for the name, and its folder in ``results``."""

    script: str
    arguments: tuple[str, ...]
    shelf: str


JOBS = {
    "sweep": Disturbed("tune.py", ("--search", "sweep.yaml"), "sweeps"),
    "grid": Disturbed("tune.py", ("--search", "grid.yaml"), "sweeps"),
    "comparison": Disturbed(
        "compare.py",
        ("--config", "federation.yaml", "--methods", "promptfl,pfedmoap,coop", "--seeds", "0,1", "--concurrent", "2"),
        "comparisons",
    ),
}


def inputs(trials: int) -> dict[str, dict]:
    """Return the files of the jobs, by name."""
    sweep = {"trials": trials, "startup_trials": 2, "grace_rounds": 1, "federation": FEDERATION}
    grid = {"sampler": "grid", "concurrent_trials": 2, "federation": FEDERATION}
    return {
        "sweep.yaml": sweep | {"space": {"experts": {"int": [0, 2]}, "gating_temperature": TEMPERATURES}},
        "grid.yaml": grid
        | {"space": {"experts": {"choice": [0, 2]}, "gating_temperature": {"choice": [0.02, 0.1, 1.0]}}},
        "federation.yaml": FEDERATION | {"methods": {"pfedmoap": {"experts": 1}}},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="shots of all kinds")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="shoot no more after that")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS), help="what to disturb, in turn")
    parser.add_argument("--trials", type=int, default=10, help="federations of the sweep")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pause", type=float, nargs=2, default=(0.3, 4.0), help="seconds between two shots")
    parser.add_argument("--processes", nargs="+", choices=TITLES, default=list(TITLES), help="processes to shoot at")
    parser.add_argument("--keep", metavar="DIR", help="folder for all files of the jobs (default: kept if wrong)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rng, tally = random.Random(options.seed), Tally()
    folder = Path(options.keep or tempfile.mkdtemp(prefix="promptfleet-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in inputs(options.trials).items():
        (folder / name).write_text(yaml.safe_dump(values))
    for kind in options.jobs:
        calm = start(folder, kind, f"calm-{kind}")
        if calm.process.wait() != 0:
            sys.exit(f"the undisturbed {kind} failed:\n{calm.log.read_text()}")
        calm.wait_until_gone()
    options.until = time.monotonic() + 60 * options.minutes
    disturbed = 0
    for kind in cycle(options.jobs):
        if tally.kills.total() >= options.kills or time.monotonic() > options.until:
            break
        disturbed += 1
        name = f"storm-{disturbed}-{kind}"
        disturb(folder, kind, name, rng, options, tally)
        compare(folder / "results", JOBS[kind].shelf, f"calm-{kind}", name, tally)
    return conclude(folder, disturbed, options, tally)


def conclude(folder: Path, disturbed: int, options: argparse.Namespace, tally: Tally) -> int:
    """Print the figures and the differences; return the exit status."""
    names = list(dict.fromkeys(name for signals in SIGNALS.values() for name in signals))
    rows = [
        {"process": kind, "shots": sum(counts.values()), **counts}
        for kind in TITLES
        for counts in [{name: tally.kills[kind, name] for name in names}]
    ]
    figures = {
        "kills": tally.kills.total(),
        "jobs": disturbed,
        "federations": tally.federations,
        "equal": tally.equal,
        "rounds_lost_or_doubled": tally.rounds_wrong,
        "rounds_lost_or_doubled_in_mlflow": tally.mlflow_wrong,
        "studies_equal": tally.studies_equal,
        "orphans": len(tally.orphans),
    }
    report("random shots", rows, as_json=options.json, **figures)
    wrong = [*tally.differences, *tally.orphans]
    for line in wrong:
        print(line, file=sys.stderr)
    if wrong:
        print(f"everything is in {folder}", file=sys.stderr)
    elif not options.keep:
        shutil.rmtree(folder)
    return 1 if wrong else 0


def start(folder: Path, kind: str, name: str, *, resume: bool = False) -> Job:
    """Start the job of that kind under a name, or resume it."""
    what = JOBS[kind]
    return Job(folder, what.script, *(["--resume", name] if resume else [*what.arguments, "--name", name]))


def disturb(folder: Path, kind: str, name: str, rng: random.Random, options: argparse.Namespace, tally: Tally) -> None:
    """Run the job once more under fire until it is finished; it gets at most the shots that are left."""
    jobs = [start(folder, kind, name)]
    home = folder / "results" / JOBS[kind].shelf / name
    began = False  # a driver is mostly left alone until it has a client
    restart_at = -1
    progress, moved = -1, time.monotonic()
    while True:
        time.sleep(rng.uniform(*options.pause))
        job = jobs[-1]
        if job.process.poll() is not None:
            if job.process.returncode == 0:
                break
            jobs.append(start(folder, kind, name, resume=(home / "study.db").exists()))
            began = False
            continue
        now = checkpoints_written(home)
        if now != progress:
            progress, moved = now, time.monotonic()
        if time.monotonic() - moved > STALLED_S:
            os.killpg(job.process.pid, signal.SIGKILL)
            sys.exit(f"{name} has not moved for {STALLED_S:g} s, see {folder}:\n{job.log.read_text()}")
        by_kind = living(job)
        began = began or bool(by_kind["client"])
        if tally.kills.total() >= options.kills or time.monotonic() > options.until:
            continue
        early = not began and len(jobs) > 1 and rng.random() < EARLY
        if not (began or early):
            continue
        if restart_at == progress and not early:  # Tune gives up a trial that dies again and again without progress
            for one in ("trial", "driver", "session", "raylet", "gcs", "agent"):
                by_kind[one] = []
        kinds = [one for one in options.processes if by_kind[one]]
        if not kinds:
            continue
        target = rng.choices(kinds, [WEIGHTS[one] for one in kinds])[0]
        shot = aim(target, by_kind[target], rng)
        shot.fire()
        tally.kills[target, shot.signal.name] += 1
        if target not in ("client", "server", "fork_server"):
            restart_at = progress
        line = f"{tally.kills.total():>4} {name}: {shot.signal.name} to {target}"
        print(line, file=sys.stderr, flush=True)
        with (folder / "kills.txt").open("a") as kills:
            print(f"{time.strftime('%H:%M:%S')} {line} {shot.pids} of {job.log.name}", file=kills)
    for job in jobs:
        tally.orphans += job.wait_until_gone()


def checkpoints_written(home: Path) -> int:
    """Return a number that changes whenever a round of the job in ``home`` is finished."""
    files = (home / "trials").glob("*/checkpoints/*.safetensors")
    return hash(tuple(sorted(str(path) for path in files)))


if __name__ == "__main__":
    sys.exit(main())
