"""The fork server: imports the modules of workers, then forks one for each launcher that connects.

A process may be copied safely only while it has one thread, no CUDA context and an untouched generator of Ray's ids;
otherwise it refuses, and launchers start their worker the plain way. A launcher that hangs up was ended by Ray: its
worker is ended, too.

Ray waits a minute for a worker that it started, even if its process has died meanwhile. Hence a worker that dies, or
takes too long, before it is up is forked again. That helps until it has registered; from then on Ray takes its id for a
dead one's. The remaining gap is hundredths of a second until it has announced its port, as for workers of Ray's own.
"""

import array
import contextlib
import ctypes
import gc
import importlib
import json
import os
import random
import runpy
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

REFUSED, FORKED, UP = b"0", b"1", b"2"
REQUEST_TIMEOUT_S = 5.0
START_TIMEOUT_S = 20.0
LOOK_EVERY_S = 0.5
FORKS = 3
READY = "ready"
PR_SET_PDEATHSIG = 1


def main() -> None:
    path, modules = sys.argv[1], sys.argv[2].split(",")
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(1024)  # before the imports: launchers of a Ray that starts meanwhile wait for them
    for name in modules:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # the collector would write to every page that workers share
    reason = unsafe() or repeats_ids()
    print(reason or READY, flush=True)
    if reason is None:
        Server(listener).serve()


def unsafe() -> str | None:
    """Return the reason why this process must not be copied, if there is one."""
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        return f"the fork server has {threads} threads"
    descriptors = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
    if any(os.readlink(one).startswith("/dev/nvidia") for one in descriptors if os.path.islink(one)):
        return "the fork server has opened the GPU"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return "the fork server has started CUDA"
    return None


def repeats_ids() -> str | None:
    """Return the reason why workers forked from here would draw equal ids of Ray, if they would.

    Ray's generator does not notice a fork, and any draw from it, such as decorating a class with ``ray.remote``, seeds
    it. Two workers that then start at once store their first object under the same id; one of them aborts.
    """
    from ray import NodeID

    ids = {in_a_child(lambda: NodeID.from_random().binary()) for _ in range(2)}
    return "a module it imports draws ids of Ray, which workers would repeat" if len(ids) == 1 else None


def in_a_child(draw: Callable[[], bytes]) -> bytes:
    """Return the result of ``draw`` in a copy of this process."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, draw())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as answer:
        content = answer.read()
    os.waitpid(pid, 0)
    return content


@dataclass(eq=False)
class Worker:
    """Process forked for a launcher, with the data for forking it again until it is up."""

    launcher: socket.socket
    request: dict[str, Any]
    stdio: list[int]
    forks_left: int = FORKS
    pid: int = 0
    report: socket.socket | None = None
    deadline: float | None = None

    def settle(self) -> None:
        """Close the data for another fork, since this worker will not be forked again."""
        for descriptor in self.stdio:
            os.close(descriptor)
        self.stdio, self.forks_left, self.deadline = [], 0, None


class Server:
    """Server with one connection per worker, as long as the worker lives."""

    def __init__(self, listener: socket.socket):
        self._listener = listener
        self._workers: dict[int, Worker] = {}
        self._selector = selectors.DefaultSelector()
        self._child_ended, wakeup = socket.socketpair()
        for one in (self._child_ended, wakeup):
            one.setblocking(False)
        self._wakeup = wakeup
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
        self._listen_to(listener, self._take_request)
        self._listen_to(self._child_ended, self._reap)

    def serve(self) -> None:
        """Serve until this process is ended."""
        while True:
            starting = [worker for worker in self._workers.values() if worker.deadline is not None]
            for key, _ in self._selector.select(LOOK_EVERY_S if starting else None):
                if self._selector.get_map().get(key.fd) is key:  # not closed during another one's turn
                    key.data()
            for worker in starting:
                if worker.deadline is not None and time.monotonic() > worker.deadline:
                    self._kill(worker)

    def _listen_to(self, connection: socket.socket, turn: Callable[[], None]) -> None:
        self._selector.register(connection, selectors.EVENT_READ, data=turn)

    def _let_go(self, connection: socket.socket) -> None:
        """Stop listening to a connection and close it, unless that was done."""
        if connection.fileno() >= 0:
            self._selector.unregister(connection)
            connection.close()

    def _take_request(self) -> None:
        connection, _ = self._listener.accept()
        connection.settimeout(REQUEST_TIMEOUT_S)
        try:
            worker = Worker(connection, *receive(connection))
        except (OSError, ValueError):
            connection.close()
            return
        forked = self._fork(worker)
        with contextlib.suppress(OSError):  # a launcher that hung up: the selector sees that too
            connection.send(FORKED if forked else REFUSED)
        if forked:
            self._listen_to(connection, lambda: self._hung_up(worker))
        else:
            worker.settle()
            connection.close()

    def _fork(self, worker: Worker) -> bool:
        """Fork a worker; return True if that could be done safely."""
        if unsafe():
            return False
        worker.report, report = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            self._leave()
            worker.launcher.close()
            worker.report.close()
            become_worker(worker.request, worker.stdio, report)
        report.close()
        worker.pid, worker.forks_left, worker.deadline = pid, worker.forks_left - 1, time.monotonic() + START_TIMEOUT_S
        self._workers[pid] = worker
        self._listen_to(worker.report, lambda: self._reported(worker))
        return True

    def _reported(self, worker: Worker) -> None:
        up = worker.report.recv(1) == UP
        self._let_go(worker.report)
        if up:
            worker.settle()

    def _hung_up(self, worker: Worker) -> None:
        worker.forks_left = 0
        self._let_go(worker.launcher)
        self._kill(worker)

    def _kill(self, worker: Worker) -> None:
        worker.deadline = None
        os.kill(worker.pid, signal.SIGKILL)

    def _reap(self) -> None:
        self._child_ended.recv(4096)
        while self._workers:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            worker = self._workers.pop(pid)
            self._let_go(worker.report)
            if not worker.forks_left or not self._fork(worker):
                worker.settle()
                self._let_go(worker.launcher)

    def _leave(self) -> None:
        """Close the server's files and signals in a new worker."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._selector.close()
        for worker in self._workers.values():
            worker.settle()
            worker.launcher.close()
            worker.report.close()
        for one in (self._listener, self._child_ended, self._wakeup):
            one.close()


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Return a request, and the launcher's standard input, output and error. Raises OSError or ValueError on less."""
    head, ancillary, _, _ = connection.recvmsg(4, socket.CMSG_SPACE(3 * array.array("i").itemsize))
    stdio = array.array("i")
    for _, _, content in ancillary:
        stdio.frombytes(content)
    missing = int.from_bytes(head, "big")
    parts = []
    while missing:
        part = connection.recv(min(missing, 2**16))
        if not part:
            raise ValueError("the launcher hung up")
        parts.append(part)
        missing -= len(part)
    if len(stdio) != 3:
        raise ValueError("a request comes with three descriptors")
    return json.loads(b"".join(parts)), list(stdio)


def become_worker(request: dict[str, Any], stdio: list[int], report: socket.socket) -> None:
    """Turn this new process into the worker of the request; reports once it is up. Never returns."""
    status = 1
    try:
        from promptfleet.cluster import ray_internals  # not above: the server listens before it imports our modules

        os.setpgid(0, 0)  # as the raylet does with workers that it starts: it ends a worker's children by the group
        for target, descriptor in enumerate(stdio):
            os.dup2(descriptor, target)
            os.close(descriptor)
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["env"])
        os.nice(max(0, request["nice"] - os.nice(0)))
        ray_internals.read_settings_again()
        seed_again()
        sys.argv = request["argv"]
        sys.path[0] = os.path.dirname(request["argv"][0])
        for entry in reversed(request["env"].get("PYTHONPATH", "").split(os.pathsep)):
            if entry and entry not in sys.path:
                sys.path.insert(0, entry)
        ray_internals.before_main_loop(partial(report_up, report))
        runpy.run_path(request["argv"][0], run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def report_up(report: socket.socket) -> None:
    """Tell the server that the worker is up."""
    report.send(UP)
    report.close()


def seed_again() -> None:
    """Draw new random states; numpy and random keep those of the fork."""
    import numpy as np

    random.seed()
    np.random.seed()  # noqa: NPY002  libraries may use it


if __name__ == "__main__":
    main()
