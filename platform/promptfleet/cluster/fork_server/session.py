"""Start of the fork server, and Ray's use of it."""

import contextlib
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from promptfleet.cluster.fork_server import launcher, server
from promptfleet.cluster.ray_internals import MEASURED_WITH, WORKER_MODULES, other_version
from promptfleet.errors import first_line

CLIENT_MODULES = ("promptfleet.federation.on_ray.preload",)
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
TRY_WITH, TRY_TIMEOUT_S = "print('works')", 60.0


def unavailable() -> str | None:
    """Return the reason why there can be no fork server here, if there is one."""
    if sys.platform != "linux":
        return f"it needs Linux, this is {sys.platform}"
    if other := other_version():
        return f"it was measured with Ray {MEASURED_WITH}, this is {other}"
    return None


class ForkServerError(Exception):
    """A fork server that cannot run here, or did not start."""


@contextlib.contextmanager
def start_fork_server(folder: Path) -> Iterator["ForkServer"]:
    """Start the server, which takes some seconds; it ends with the block, and with this process.

    folder: empty, and with a path that is short enough for a socket.

    Raises:
        ForkServerError: the launcher cannot be run there.
    """
    path, errors = folder / "socket", folder / "errors"
    executable = write_launcher(folder)
    nil_job = {"RAY_JOB_ID": "ffffffff", "RAY_RAYLET_PID": str(os.getpid())}  # as in workers that wait for a job
    # By its file: with -m, a random.py in the working folder would be imported in place of Python's own.
    command = [sys.executable, server.__file__, str(path), ",".join(WORKER_MODULES + CLIENT_MODULES)]
    environment = os.environ | ONE_THREAD | nil_job
    with (
        errors.open("wb") as stderr,
        subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,  # Ctrl-C on the terminal is handled by the driver
        ) as process,
    ):
        try:
            yield ForkServer(process, str(path), str(executable), errors)
        finally:
            process.terminate()
            process.wait()


def write_launcher(folder: Path) -> Path:
    """Write the program that replaces Python, and try it.

    The shell runs its second line, which is a string to Python: a ``#!`` line with the interpreter itself can hold
    neither spaces nor more than some 120 characters.

    Raises:
        ForkServerError: it cannot be run.
    """
    executable = folder / "python"
    start = f"#!/bin/sh\n'''exec' {shlex.quote(sys.executable)} -ISE \"$0\" \"$@\"\n' '''\n"
    executable.write_text(start + Path(launcher.__file__).read_text())
    executable.chmod(0o755)
    try:
        tried = subprocess.run(
            [executable, "-IS", "-c", TRY_WITH],
            env=os.environ | {launcher.PYTHON: sys.executable},
            capture_output=True,
            text=True,
            timeout=TRY_TIMEOUT_S,
        )
    except PermissionError:
        raise ForkServerError(f"programs cannot be run in {folder}: is it mounted noexec?") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ForkServerError(f"{executable} cannot be run: {first_line(error)}") from None
    if tried.stdout != "works\n":
        raise ForkServerError(f"{executable} cannot be run: {last_line(tried.stderr) or tried.returncode}")
    return executable


def last_line(text: str) -> str:
    """Return the last line of a program's standard error, the error itself."""
    return next(iter(reversed(text.strip().splitlines())), "")


class ForkServer:
    """A fork server that is up or starting: a request for a worker waits until it is up."""

    def __init__(self, process: subprocess.Popen, socket_path: str, executable: str, errors: Path):
        self.pid = process.pid
        self._errors = errors
        self._answers = process.stdout
        self._environment = {launcher.SOCKET: socket_path, launcher.PYTHON: sys.executable}
        self._executable = executable

    def wait_until_ready(self) -> None:
        """Wait for the server. Raises ForkServerError with a reason if it will not serve; workers then start alone."""
        answer = self._answers.readline().strip()
        if answer != server.READY:
            reason = last_line(self._errors.read_text(errors="replace"))
            raise ForkServerError(answer or f"it ended while it started: {reason}")

    @contextlib.contextmanager
    def used_by_ray(self) -> Iterator[None]:
        """Let a Ray that is started within this block fork its workers.

        Ray takes the worker's command from the interpreter's path; the runtime environment's ``py_executable`` would do
        as well, but there Ray starts a Python of its own for each worker first (10 actors: 5.6 s, not 1.1 s).
        """
        os.environ.update(self._environment)
        sys.executable = self._executable
        try:
            yield
        finally:
            sys.executable = self._environment[launcher.PYTHON]
            for name in self._environment:
                del os.environ[name]
