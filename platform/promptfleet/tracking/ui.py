"""Server of MLflow on the embedded store, quiet except for its user's needs."""

import errno
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile

from promptfleet.tracking.errors import TrackingError
from promptfleet.tracking.store import DATABASE, TrackingStore

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
_SETTINGS = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def serve(storage_path: str | Path, port: int, on_start: Callable[[TrackingStore], None]) -> None:
    """Serve the store to this machine until Ctrl-C or SIGTERM; ``on_start`` is called once the server answers.

    Raises:
        TrackingError: there is no store yet, the port cannot be had, or the server ended by itself.
    """
    file = Path(storage_path) / DATABASE
    if not file.is_file():
        raise TrackingError(f"there is nothing to show yet, {file} does not exist: run 'make sweep' first")
    _check_port(port)
    store = TrackingStore.open(storage_path)
    options = ["--host", HOST, "--port", str(port), "--workers", "1"]
    quiet = ["--uvicorn-opts", "--log-level warning --no-access-log"]
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", store.uri, *options, *quiet]
    logger.info("starting MLflow, which takes some seconds")
    with TemporaryFile() as log:
        server = subprocess.Popen(command, env=os.environ | _SETTINGS, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        before = signal.signal(signal.SIGTERM, lambda *_: server.terminate())
        try:
            _wait_for_answer(server, port)
            if server.poll() is None:
                on_start(store)
            server.wait()
        except KeyboardInterrupt:
            return
        finally:
            _end(server)
            signal.signal(signal.SIGTERM, before)
        if server.returncode not in (0, -signal.SIGTERM):
            log.seek(0)
            lines = log.read().decode(errors="replace").strip().splitlines()
            raise TrackingError(f"MLflow's server ended with status {server.returncode}: {' / '.join(lines[-3:])}")


def _check_port(port: int) -> None:
    if not 1 <= port <= 65535:
        raise TrackingError(f"port {port}: choose one from 1024 to 65535, as in 'make ui PORT=5001'")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            why = f"is taken, perhaps by MLflow already (http://{HOST}:{port})" if taken else f"({error.strerror})"
            other = port + 1 if 1024 <= port < 65535 else 5001
            raise TrackingError(f"port {port} {why}: choose another, as in 'make ui PORT={other}'") from None


def _wait_for_answer(server: subprocess.Popen, port: int) -> None:
    """Wait until the server answers or has ended."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy leads to this machine
    while server.poll() is None:
        try:
            with direct.open(f"http://{HOST}:{port}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.2)


def _end(server: subprocess.Popen) -> None:
    if server.poll() is None:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
