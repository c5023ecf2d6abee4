"""Starting the fork server and telling Ray to use it."""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from promptfleet.federation.fork_server import launcher, server
from promptfleet.methods import METHOD_MODULES

MEASURED_WITH = "2.60.0"  # it leans on how this Ray starts its workers
MODULES = ("ray", "ray.actor", "ray.util", "ray._private.worker", "ray._private.ray_logging")
CLIENT_MODULES = ("promptfleet.federation.actors", *METHOD_MODULES)
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}


def unavailable() -> str | None:
    """Why there can be no fork server here, if so."""
    if sys.platform != "linux":
        return f"it needs Linux, this is {sys.platform}"
    if version("ray") != MEASURED_WITH:
        return f"it was measured with Ray {MEASURED_WITH}, this is {version('ray')}"
    return None


class ForkServerError(Exception):
    """The fork server did not come up."""


@contextlib.contextmanager
def start_fork_server() -> Iterator["ForkServer"]:
    """Start the server, which takes some seconds; it ends with the block, and with this process."""
    with tempfile.TemporaryDirectory(prefix="promptfleet-") as folder:
        path = Path(folder) / "socket"
        executable = Path(folder) / "python"
        executable.write_text(f"#!{sys.executable} -ISE\n{Path(launcher.__file__).read_text()}")
        executable.chmod(0o755)
        nil_job = {"RAY_JOB_ID": "ffffffff", "RAY_RAYLET_PID": str(os.getpid())}  # as in workers that wait for a job
        command = [sys.executable, "-m", server.__name__, str(path), ",".join(MODULES + CLIENT_MODULES)]
        environment = os.environ | ONE_THREAD | nil_job
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield ForkServer(process, str(path), str(executable))
            finally:
                process.terminate()
                process.wait()


class ForkServer:
    """A fork server that is up, or on its way: whoever asks it for a worker waits until it is."""

    def __init__(self, process: subprocess.Popen, socket_path: str, executable: str):
        self.pid = process.pid
        self._answers = process.stdout
        self._environment = {launcher.SOCKET: socket_path, launcher.PYTHON: sys.executable}
        self._executable = executable

    def wait_until_ready(self) -> None:
        """Raises ForkServerError with a reason if it will not serve; workers are then started the plain way."""
        answer = self._answers.readline().strip()
        if answer != server.READY:
            raise ForkServerError(answer or "it ended while it started")

    @contextlib.contextmanager
    def used_by_ray(self) -> Iterator[None]:
        """A Ray that is started within this block has its workers forked.

        The interpreter's path is where Ray takes the worker's command from; the runtime environment's ``py_executable``
        would do as well, but there Ray starts a Python of its own for each worker first (10 actors: 5.6 s, not 1.1 s).
        """
        os.environ.update(self._environment)
        sys.executable = self._executable
        try:
            yield
        finally:
            sys.executable = self._environment[launcher.PYTHON]
            for name in self._environment:
                del os.environ[name]
