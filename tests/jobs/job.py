"""A job in a process of its own, as a user runs it."""

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

MARK = "PROMPTFLEET_TEST"
LISTENS = "0A"


def hear_signals() -> None:
    """Let SIGINT and SIGHUP end this process, also where the tests ignore them: under nohup or in the background."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


class Job:
    """One command line under way, whose descendants can be told by a mark in their environment."""

    def __init__(self, root: Path, folder: Path, *arguments: str):
        self.mark = uuid.uuid4().hex
        self.output = folder / f"{self.mark}.log"
        command = [sys.executable, str(root / "jobs" / arguments[0]), *arguments[1:]]
        self.process = self._start(command, cwd=folder, env={**os.environ, MARK: self.mark}, start_new_session=True)

    def _start(self, command: list[str], **options: Any) -> subprocess.Popen:
        out = self.output.open("w")
        return subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, preexec_fn=hear_signals, **options)

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

    def listening(self) -> set[str]:
        """Addresses at which its processes listen for connections, as the kernel writes them."""
        found = set()
        for pid in self.processes():
            with suppress(OSError):
                mine = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
                for table in ("tcp", "tcp6"):
                    for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                        _, local, _, state, *_, inode = line.split()[:10]
                        if state == LISTENS and f"socket:[{inode}]" in mine:
                            found.add(local.partition(":")[0])
        return found


class TerminalJob(Job):
    """A job in the foreground of a terminal of its own."""

    def _start(self, command: list[str], **options: Any) -> subprocess.Popen:
        self._keyboard, terminal = pty.openpty()
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), terminal)
        process = subprocess.Popen(command, **streams, preexec_fn=self._take_terminal, **options)
        os.close(terminal)
        self.output.touch()
        threading.Thread(target=self._show, daemon=True).start()
        return process

    @staticmethod
    def _take_terminal() -> None:
        hear_signals()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def press_ctrl_c(self) -> None:
        os.write(self._keyboard, b"\x03")

    def _show(self) -> None:
        with self.output.open("wb", buffering=0) as output, suppress(OSError):  # the terminal's end
            while text := os.read(self._keyboard, 65536):
                output.write(text)
