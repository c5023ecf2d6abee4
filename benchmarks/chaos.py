"""Kill processes of running sweeps at random and see that nothing is lost: python benchmarks/chaos.py --kills 200

One sweep of short federations runs undisturbed. The same sweep then runs again and again while its processes get
SIGKILL at seeded moments: client actors, the server, the trial, the driver (then it is resumed), the whole Ray session,
and the fork server. In the end every federation must have the very bits of the undisturbed one, every round must be
there once, in the files and in MLflow, and no process may be left. All that the sweeps wrote, what the drivers said and
who was killed when (kills.txt) is kept in --keep DIR, or in a folder that is named if something was wrong.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from measuring import report

ROOT = Path(__file__).resolve().parents[1]
MARK = "PROMPTFLEET_CHAOS"
TITLES = {  # what a process calls itself
    "client": ("ray::ClientActor",),
    "server": ("ray::ServerActor",),
    "trial": ("ray::FederationTrial", "ray::ResourceTrainable"),  # the latter while it is at work
    "driver": ("jobs/tune.py",),
    "session": ("raylet", "gcs_server"),
    "fork_server": ("promptfleet/federation/fork_server/server.py",),
}
WEIGHTS = {"client": 8, "server": 5, "trial": 3, "driver": 2, "session": 1, "fork_server": 1}
SPACE = """
trials: {trials}
startup_trials: 2
grace_rounds: 1
federation:
  clients: 3
  rounds: 4
  local_epochs: 1
  prompt_length: 4
  runtime: {{retries: 20}}
space:
  experts: {{int: [0, 2]}}
  gating_temperature: {{float: [0.02, 1.0], log: true}}
"""
STALLED_S = 600.0
GONE_S = 240.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="kill nobody after that")
    parser.add_argument("--trials", type=int, default=10, help="federations of each sweep")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pause", type=float, nargs=2, default=(0.3, 4.0), help="seconds between two kills")
    parser.add_argument("--processes", nargs="+", choices=TITLES, default=list(TITLES), help="whom to kill")
    parser.add_argument("--keep", metavar="DIR", help="where to keep all that is written (default: kept if wrong)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    tally = Tally()
    folder = Path(options.keep or tempfile.mkdtemp(prefix="promptfleet-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "space.yaml").write_text(SPACE.format(trials=options.trials))
    calm = Job(folder, "--search", "space.yaml", "--name", "calm")
    if calm.process.wait() != 0:
        sys.exit(f"the undisturbed sweep failed:\n{calm.log.read_text()}")
    calm.wait_until_gone()
    sweeps = 0
    options.until = time.monotonic() + 60 * options.minutes
    while sum(tally.kills.values()) < options.kills and time.monotonic() < options.until:
        sweeps += 1
        disturb(folder, f"storm-{sweeps}", rng, options, tally)
        compare(folder, f"storm-{sweeps}", tally)
    rows = [{"process": kind, "kills": tally.kills[kind]} for kind in TITLES]
    figures = {
        "kills": sum(tally.kills.values()),
        "sweeps": sweeps,
        "federations": tally.federations,
        "equal": tally.equal,
        "rounds_lost_or_doubled": tally.rounds_wrong,
        "rounds_lost_or_doubled_in_mlflow": tally.mlflow_wrong,
        "studies_equal": tally.studies_equal,
        "orphans": len(tally.orphans),
    }
    report("random kills", rows, as_json=options.json, **figures)
    wrong = [*tally.differences, *tally.orphans]
    for line in wrong:
        print(line, file=sys.stderr)
    if wrong:
        print(f"everything is in {folder}", file=sys.stderr)
    elif not options.keep:
        shutil.rmtree(folder)
    return 1 if wrong else 0


@dataclass
class Tally:
    """What was done and what came of it, over all disturbed sweeps."""

    kills: Counter[str] = field(default_factory=Counter)
    federations: int = 0
    equal: int = 0
    rounds_wrong: int = 0
    mlflow_wrong: int = 0
    studies_equal: int = 0
    differences: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)


class Job:
    """A sweep's driver, whose descendants are told by a mark in their environment."""

    def __init__(self, folder: Path, *arguments: str):
        self.mark = uuid.uuid4().hex
        self.log = folder / f"{arguments[-1]}-{len(list(folder.glob('*.log')))}.log"
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "jobs" / "tune.py"), *arguments],
            cwd=folder,
            env={**os.environ, MARK: self.mark},
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def processes(self) -> dict[int, str]:
        """Command lines of the living processes that descend from the job, itself included, by process id."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if f"{MARK}={self.mark}".encode() in (entry / "environ").read_bytes():
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    if command:
                        found[int(entry.name)] = command
            except OSError:
                continue
        return found

    def wait_until_gone(self) -> list[str]:
        """Command lines of processes that have not ended by themselves after four minutes."""
        deadline = time.monotonic() + GONE_S
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.5)
        return list(left.values())


def disturb(folder: Path, name: str, rng: random.Random, options: argparse.Namespace, tally: Tally) -> None:
    """Run the sweep once more under fire until it is finished; at most as many kills as are still to be done."""
    jobs = [Job(folder, "--search", "space.yaml", "--name", name)]
    began = False  # a new driver is left alone until it has a trial
    trial_shot_at = -1
    progress, moved = -1, time.monotonic()
    while True:
        time.sleep(rng.uniform(*options.pause))
        job = jobs[-1]
        if job.process.poll() is not None:
            if job.process.returncode == 0:
                break
            known = (folder / "results" / "sweeps" / name / "sweep.yaml").exists()
            jobs.append(Job(folder, *(["--resume", name] if known else ["--search", "space.yaml", "--name", name])))
            began = False
            continue
        now = checkpoints_written(folder, name)
        if now != progress:
            progress, moved = now, time.monotonic()
        if time.monotonic() - moved > STALLED_S:
            os.killpg(job.process.pid, signal.SIGKILL)
            sys.exit(f"{name} has not moved for {STALLED_S:g} s:\n{job.log.read_text()}")
        by_kind = living(job)
        began = began or bool(by_kind["client"])
        if not began or sum(tally.kills.values()) >= options.kills or time.monotonic() > options.until:
            continue
        if trial_shot_at == progress:  # Tune gives up a trial that dies again and again without getting anywhere
            by_kind["trial"] = by_kind["driver"] = by_kind["session"] = []
        kinds = [kind for kind in options.processes if by_kind[kind]]
        if not kinds:
            continue
        kind = rng.choices(kinds, [WEIGHTS[kind] for kind in kinds])[0]
        victims = by_kind[kind] if kind == "session" else [rng.choice(sorted(by_kind[kind]))]
        if kind == "client" and rng.random() < 0.15:
            victims = by_kind[kind]  # all at once
        for pid in victims:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        tally.kills[kind] += 1
        if kind in ("trial", "driver", "session"):
            trial_shot_at = progress
        line = f"{sum(tally.kills.values()):>4} {name}: killed {kind}"
        print(line, file=sys.stderr, flush=True)
        with (folder / "kills.txt").open("a") as kills:
            print(f"{time.strftime('%H:%M:%S')} {line} {victims} of {job.log.name}", file=kills)
    for job in jobs:
        tally.orphans += job.wait_until_gone()


def living(job: Job) -> dict[str, list[int]]:
    """Process ids of the job's processes that may be killed, by kind."""
    found: dict[str, list[int]] = {kind: [] for kind in TITLES}
    for pid, command in job.processes().items():
        program = command.split(" -", 1)[0]
        for kind, titles in TITLES.items():
            if kind == "driver":
                mine = pid == job.process.pid
            elif kind == "fork_server":  # its forked workers bear its command line until they have a title
                mine = titles[0] in command and parent_of(pid) == job.process.pid
            else:
                mine = any(title in program for title in titles)
            if mine:
                found[kind].append(pid)
    return found


def parent_of(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return None


def checkpoints_written(folder: Path, name: str) -> int:
    """A number that changes whenever a round of the sweep is finished."""
    files = (folder / "results" / "sweeps" / name / "trials").glob("*/checkpoints/*.safetensors")
    return hash(tuple(sorted(str(path) for path in files)))


def compare(folder: Path, name: str, tally: Tally) -> None:
    """Hold the sweep against the undisturbed one."""
    calm, storm = folder / "results" / "sweeps" / "calm", folder / "results" / "sweeps" / name
    for path in sorted(calm.glob("trials/*/result.json")):
        wanted, number = json.loads(path.read_text()), path.parent.name
        tally.federations += 1
        try:
            found: dict[str, Any] = json.loads((storm / "trials" / number / "result.json").read_text())
        except OSError as error:
            tally.differences.append(f"{name}: trial {number}: no result ({error})")
            continue
        same = all(found[key] == wanted[key] for key in ("state_sha256", "clients", "val_accuracy", "test_accuracy"))
        tally.equal += same
        rounds = [one["round"] for one in found["rounds"]]
        right = rounds == [one["round"] for one in wanted["rounds"]]
        tally.rounds_wrong += not right
        if not (same and right):
            setting = "the same" if found["config"] == wanted["config"] else "another"
            tally.differences.append(f"{name}: trial {number} differs: rounds {rounds}, of {setting} configuration")
    studies = [study_rows(sweep) for sweep in (calm, storm)]
    tally.studies_equal += studies[0] == studies[1]
    if studies[0] != studies[1]:
        tally.differences.append(f"{name}: the study differs from the undisturbed one: {studies}")
    for line in mlflow_differences(folder, name):
        tally.mlflow_wrong += 1
        tally.differences.append(line)


def study_rows(sweep: Path) -> list[tuple]:
    """Trials, parameters and every reported value, as they lie in the study's database."""
    with sqlite3.connect(sweep / "study.db") as database:
        return [
            *database.execute("select number, state from trials order by number"),
            *database.execute("select trial_id, param_name, param_value from trial_params order by 1, 2"),
            *database.execute("select trial_id, step, intermediate_value from trial_intermediate_values order by 1, 2"),
            *database.execute("select trial_id, value from trial_values order by 1"),
        ]


def mlflow_differences(folder: Path, name: str) -> list[str]:
    """Trials of the sweep whose rounds in MLflow are not each there once, with the values of the undisturbed ones."""
    query = """
        select trial.value, m.step, m.value from metrics m
        join tags trial on trial.run_uuid = m.run_uuid and trial.key = 'trial'
        join tags parent on parent.run_uuid = m.run_uuid and parent.key = 'mlflow.parentRunId'
        join tags sweep on sweep.run_uuid = parent.value and sweep.key = 'promptfleet.key' and sweep.value = ?
        where m.key = 'val/accuracy_mean' order by 1, 2
    """
    with sqlite3.connect(folder / "results" / "mlflow.db") as database:
        calm, storm = (database.execute(query, (f"sweep/{sweep}",)).fetchall() for sweep in ("calm", name))
    return [f"{name}: MLflow has {row} of trial, round, accuracy" for row in sorted(set(calm) ^ set(storm))] or (
        [f"{name}: MLflow has a round twice"] if len(storm) != len(set(storm)) else []
    )


if __name__ == "__main__":
    sys.exit(main())
