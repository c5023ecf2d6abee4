"""A job in a process of its own, as a user runs it."""

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

MARK = "PROMPTFLEET_TEST"


class Job:
    """One command line under way, whose descendants can be told by a mark in their environment."""

    def __init__(self, root: Path, folder: Path, *arguments: str):
        self.mark = uuid.uuid4().hex
        self.output = folder / f"{self.mark}.log"
        self.process = subprocess.Popen(
            [sys.executable, str(root / "jobs" / arguments[0]), *arguments[1:]],
            cwd=folder,
            env={**os.environ, MARK: self.mark},
            stdout=self.output.open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait(self) -> int:
        return self.process.wait(timeout=600)

    def text(self) -> str:
        return self.output.read_text()

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + 300
        while text not in self.text():
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.05)

    def kill(self, *programs: str) -> None:
        """SIGKILL to those of its processes whose program is one of these, such as ``raylet``."""
        for pid, command in self.processes().items():
            if Path(command.split(" ")[0]).name in programs:
                os.kill(pid, signal.SIGKILL)

    def processes(self) -> dict[int, str]:
        """Command lines of all living processes that descend from the job, itself included, by process id."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if f"{MARK}={self.mark}".encode() in (entry / "environ").read_bytes():
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    found |= {int(entry.name): command} if command else {}
            except OSError:
                continue
        return found

    def wait_until_gone(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while left := self.processes():
            assert time.monotonic() < deadline, left
            time.sleep(0.2)
