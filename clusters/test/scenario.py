"""A sweep on a cluster of two hosts, as a user runs it: up, sweep, down; then again with a host lost in the middle."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from hosts import ROOT, Host, make_key, make_network, start_host

SEARCH = "search_spaces/gating.yaml"
SIZE = ["--trials", "2", "--set", "rounds=4", "--set", "runtime.clients_per_actor=2"]
PACKAGE = "/root/promptfleet/platform/promptfleet/__init__.py"
HEAD, WORKER = "10.77.0.1", "10.77.0.2"
PATIENCE_S = 300.0


class Failed(Exception):
    """A condition that should be true and is not."""


class Scenario:
    """Scenario in its own namespaces, see ``run.py``. ``folder`` takes logs and results."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.seconds: dict[str, float] = {}  # of each step
        self.cluster = folder / "local.yaml"
        self.home = folder / "home"  # of the second sweep's results, at an address that both hosts reach
        self.hosts: list[Host] = []
        bin_folder = Path(sys.executable).parent
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
            "HOME": str(folder),  # for ~/.ray
            "LOGNAME": folder.name,  # see ``ray_ssh_folder``
            "TMPDIR": str(folder),
            "RAY_TMPDIR": str(folder),
            "RAY_AUTH_MODE": "token",
            "OMP_NUM_THREADS": "1",
        }

    def run(self) -> None:
        """Run all steps. Raises Failed, or SubprocessError for a command on a host that should have succeeded."""
        make_network()
        with self._step("one machine: the sweep"):
            alone = self.folder / "alone"
            self._here("alone", "python", "jobs/tune.py", "--search", SEARCH, *SIZE, "--set", f"storage.path={alone}")
        self.expected = outcomes(alone / "sweeps/gating")

        with self._step("two hosts start"):
            key = make_key(self.folder)
            self.home.mkdir()
            for name, address in (("head", HEAD), ("worker", WORKER)):
                self.hosts.append(start_host(name, address, key, self.home, self._log(name)))
            self.head, self.worker = self.hosts
            self._note_namespaces()
        self._write_cluster(key)
        self._here("token", "ray", "get-auth-token", "--generate")

        self._cluster_up("ray up")
        job = f"cd promptfleet && python jobs/tune.py --search {SEARCH} --name calm --address auto {' '.join(SIZE)}"
        self._sweep("calm", ["ray", "exec", str(self.cluster), job])
        self._check_worker_keeps_nothing()
        self._cluster_down()

        self._cluster_up("ray up again")
        arguments = ["--search", f"promptfleet/{SEARCH}", "--name", "loss", "--address", "auto", *SIZE]
        arguments += ["--set", f"storage.path={self.home.as_uri()}"]
        self._sweep("loss", ["ray", "submit", str(self.cluster), "jobs/tune.py", "--", *arguments], lose=self.worker)
        self._cluster_down()

    def keep_traces(self) -> None:
        """Write the seconds of each step, and Ray's logs of the hosts that are alive, into ``folder``."""
        lines = [f"{seconds:7.1f} s  {what}" for what, seconds in self.seconds.items()]
        (self.folder / "seconds.txt").write_text("\n".join(lines) + "\n")
        for host in self.hosts:
            if host.alive:
                with suppress(subprocess.SubprocessError):
                    text = host.ssh("tail -n 200 /tmp/ray/session_latest/logs/*.{log,out,err} 2>/dev/null || true")
                    self._log(f"ray-on-{host.name}").write_text(text)

    def _note_namespaces(self) -> None:
        """Write the namespaces for ``run.py``, which checks that none of them is left."""
        own = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("net", "pid", "mnt")]
        theirs = [namespace for host in self.hosts for namespace in host.namespaces()]
        (self.folder / "namespaces").write_text(" ".join(own + theirs))

    def _write_cluster(self, key: Path) -> None:
        """Write clusters/local.yaml with the lines changed that say CHANGE."""
        cluster = yaml.safe_load((ROOT / "clusters/local.yaml").read_text())
        cluster["provider"] |= {"head_ip": HEAD, "worker_ips": [WORKER]}
        cluster["auth"] = {"ssh_user": "root", "ssh_private_key": str(key)}
        cluster |= {"min_workers": 1, "max_workers": 1}
        self.cluster.write_text(yaml.safe_dump(cluster))

    def _cluster_up(self, name: str) -> None:
        self.begun = time.monotonic()
        with self._step(name):
            self._here(name.replace(" ", "-"), "ray", "up", "-y", "--no-config-cache", str(self.cluster))
        with self._step("until the worker has joined"):
            self._wait_for("two nodes in `ray status`", lambda: "2 local.cluster.node" in self._status())
        for host in (self.head, self.worker):
            imported = host.ssh("promptfleet/.venv/bin/python -c 'import promptfleet; print(promptfleet.__file__)'")
            check(imported.strip() == PACKAGE, f"{host.name} imports {imported}")

    def _sweep(self, name: str, command: list[str], *, lose: Host | None = None) -> None:
        """Run the sweep called ``name`` by ``command`` and compare; ``lose`` that host when round 1 is over."""
        started = time.monotonic()
        job = self._start(name, *command)
        first = "trials/000/checkpoints/*1.safetensors"
        self._wait_for("the first round", lambda: self._on_head(name, first) or self._at_home(name, first), job)
        self._note("first round of the first trial, since the sweep began", started)
        self._note("first round of the first trial, since `ray up`", self.begun)
        if lose:
            lose.kill()
        self._wait_for("the end of the sweep", lambda: job.poll() is not None, job)
        self._note("the sweep with a host lost" if lose else "the sweep", started)
        check(job.returncode == 0, f"the sweep ended with status {job.returncode}, see {name}.log")
        results = self.home
        if not lose:
            results = self.folder / "results"
            self._here("rsync-down", "ray", "rsync-down", str(self.cluster), "~/promptfleet/results/", str(results))
        found = outcomes(results / "sweeps" / name)
        check(found == self.expected, f"{name}: other results than on one machine: {found} instead of {self.expected}")
        first, *_, last = placements(results / "sweeps" / name)
        check(first.keys() == {HEAD, WORKER}, f"{name}: clients trained on {first} in the first round")
        there = {HEAD} if lose else {HEAD, WORKER}
        check(last.keys() == there, f"{name}: clients trained on {last} in the last round")

    def _check_worker_keeps_nothing(self) -> None:
        """Raise Failed if the worker has more than a copy of the encoded images, such as results or MLflow."""
        look = "ls -d promptfleet/results 2>/dev/null; find /tmp promptfleet -name '*.arrow' -o -name '*.db'"
        found = self.worker.ssh(look).split()
        check(len(found) == 1 and found[0].endswith(".arrow"), f"on the worker: {found}")

    def _cluster_down(self) -> None:
        """Stop head and workers by the commands in clusters/local.yaml, and undo what was changed on them."""
        with self._step("clusters/stop.py"):
            stop = self._start("down", sys.executable, "clusters/stop.py", str(self.cluster))
            status = stop.wait(timeout=PATIENCE_S)
            check((status == 0) == self.worker.alive, f"clusters/stop.py ended with status {status}, see down.log")
        for host in self.hosts:
            left = host.commands() if host.alive else []
            check(not left, f"left on the {host.name} after clusters/stop.py: {left}")
            changed = host.ssh("grep promptfleet ~/.bashrc || true") if host.alive else ""
            check(not changed, f"left in the {host.name}'s ~/.bashrc: {changed}")

    def _status(self) -> str:
        return self._here("status", "ray", "exec", str(self.cluster), "ray status")

    def _on_head(self, name: str, pattern: str) -> bool:
        return bool(self.head.ssh(f"ls promptfleet/results/sweeps/{name}/{pattern} 2>/dev/null || true"))

    def _at_home(self, name: str, pattern: str) -> bool:
        return any((self.home / "sweeps" / name).glob(pattern))

    def _here(self, name: str, *command: str) -> str:
        """Return the output of a command on this machine, also logged to ``name``. Raises Failed if it fails."""
        process = self._start(name, *command)
        status = process.wait(timeout=PATIENCE_S)
        text = self._log(name).read_text()
        check(status == 0, f"`{' '.join(command)}` ended with status {status}:\n{text[-3000:]}")
        return text

    def _start(self, name: str, *command: str) -> subprocess.Popen:
        with self._log(name).open("w") as log:
            return subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=log, stderr=subprocess.STDOUT)

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def _wait_for(self, what: str, happened: Callable[[], bool], job: subprocess.Popen | None = None) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not happened():
            check(time.monotonic() < deadline, f"waited {PATIENCE_S:g} s for {what}")
            check(job is None or job.poll() is None or happened(), f"the sweep ended before {what}")
            time.sleep(0.5)

    @contextmanager
    def _step(self, what: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self._note(what, started)

    def _note(self, what: str, started: float) -> None:
        seconds = time.monotonic() - started
        self.seconds[what] = seconds
        print(f"{seconds:7.1f} s  {what}", flush=True)


def ray_ssh_folder(folder: Path) -> Path:
    """Return the folder of Ray's launcher for ssh connections: by its user's name, here the scenario's folder's."""
    return Path(f"/tmp/ray_ssh_{hashlib.sha256(folder.name.encode()).hexdigest()[:10]}")


def outcomes(sweep: Path) -> dict[str, Any]:
    """Return the outcome of each trial of a sweep to the last bit: final states, and accuracies by round and client."""
    found = {}
    for path in sorted(sweep.glob("trials/*/result.json")):
        result = json.loads(path.read_text())
        rounds = [
            {name: one[name] for name in ("round", "client_val_accuracy", "client_test_accuracy", "uploaded_bytes")}
            for one in result["rounds"]
        ]
        found[path.parent.name] = {"state_sha256": result["state_sha256"], "rounds": rounds}
    check(len(found) == 2, f"{sweep}: {len(found)} trials instead of 2")
    return found


def placements(sweep: Path) -> list[dict[str, int]]:
    """Return the number of clients per node, round by round, in all trials."""
    results = [json.loads(path.read_text()) for path in sorted(sweep.glob("trials/*/result.json"))]
    return [one["nodes"] for result in results for one in result["rounds"]]


def check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Failed(otherwise)
