"""Jobs under fire, their processes by kind, and the signals that each kind gets."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import Signals

ROOT = Path(__file__).resolve().parents[1]
MARK = "PROMPTFLEET_CHAOS"
GONE_S = 240.0
STOPPED_S = (0.5, 5.0)  # from SIGSTOP to SIGCONT
TITLES = {  # a process's own title
    "client": ("ray::ClientActor",),
    "server": ("ray::ServerActor",),
    "trial": ("ray::FederationTrial", "ray::ResourceTrainable"),  # the latter while it is at work
    "driver": ("jobs/tune.py", "jobs/compare.py"),
    "session": ("raylet", "gcs_server"),
    "raylet": ("raylet/raylet",),
    "gcs": ("gcs_server",),
    "agent": ("dashboard/agent.py", "ray::DashboardAgent", "runtime_env/agent/main.py", "ray::RuntimeEnvAgent"),
    "fork_server": ("promptfleet/cluster/fork_server/server.py",),
}
WEIGHTS = {
    "client": 8,
    "server": 5,
    "trial": 3,
    "driver": 3,
    "session": 1,
    "raylet": 1,
    "gcs": 1,
    "agent": 1,
    "fork_server": 1,
}
SIGNALS = {  # weight of each signal, by kind; SIGSTOP is followed by SIGCONT
    "client": {"SIGKILL": 4, "SIGSTOP": 1, "SIGTERM": 1},
    "server": {"SIGKILL": 4, "SIGSTOP": 1, "SIGTERM": 1},
    "trial": {"SIGKILL": 4, "SIGSTOP": 1, "SIGTERM": 1},
    "driver": {"SIGKILL": 2, "SIGSTOP": 1, "SIGTERM": 1, "SIGHUP": 1},
    "session": {"SIGKILL": 1},
    "raylet": {"SIGKILL": 1, "SIGSTOP": 1},
    "gcs": {"SIGKILL": 1, "SIGSTOP": 1},
    "agent": {"SIGKILL": 1, "SIGSTOP": 1},
    "fork_server": {"SIGKILL": 2, "SIGSTOP": 1},
}


@dataclass(frozen=True)
class Shot:
    """A signal to processes of one kind; one that lets them live on is followed by SIGCONT after ``stopped_s``."""

    kind: str
    signal: Signals
    pids: Sequence[int]
    stopped_s: float = 0.0

    @property
    def is_deadly(self) -> bool:
        return self.signal != signal.SIGSTOP

    def fire(self) -> None:
        """Send the signal; processes that have ended meanwhile are passed over."""
        _send(self.pids, self.signal)
        if not self.is_deadly:
            timer = threading.Timer(self.stopped_s, _send, (self.pids, signal.SIGCONT))
            timer.daemon = True
            timer.start()


def aim(kind: str, pids: Sequence[int], rng: random.Random) -> Shot:
    """Draw a shot at the processes ``pids`` of one kind: mostly at one of them, sometimes at all clients at once."""
    names = SIGNALS[kind]
    name = rng.choices(list(names), list(names.values()))[0]
    everybody = kind == "session" or (kind == "client" and rng.random() < 0.15)
    victims = sorted(pids) if everybody else [rng.choice(sorted(pids))]
    return Shot(kind, Signals[name], victims, rng.uniform(*STOPPED_S))


def _send(pids: Sequence[int], number: Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


class Job:
    """A driver, whose descendants are recognized by a mark in their environment."""

    def __init__(self, folder: Path, script: str, *arguments: str):
        self.mark = uuid.uuid4().hex
        self.log = folder / f"{arguments[-1]}-{len(list(folder.glob('*.log')))}.log"
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "jobs" / script), *arguments],
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
        """Return command lines of processes that have not ended by themselves after four minutes."""
        deadline = time.monotonic() + GONE_S
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.5)
        return list(left.values())


def living(job: Job) -> dict[str, list[int]]:
    """Return the ids of the job's processes that may be killed, by kind."""
    found: dict[str, list[int]] = {kind: [] for kind in TITLES}
    for pid, command in job.processes().items():
        program = command.split(" -", 1)[0]
        for kind, titles in TITLES.items():
            if kind == "driver":
                mine = pid == job.process.pid
            elif kind == "fork_server":  # its forked workers bear its command line until they have a title
                mine = any(title in command for title in titles) and parent_of(pid) == job.process.pid
            elif kind == "agent":
                mine = any(title in command for title in titles)
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
