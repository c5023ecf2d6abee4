"""The fork server: imports what workers need, then forks one for each launcher that connects.

A process may be copied safely only while it has one thread and no CUDA context; otherwise it refuses, and launchers
start their worker the plain way. A launcher that hangs up has been ended by Ray: so is its worker then.
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
from typing import Any

REFUSED, FORKED = b"0", b"1"
REQUEST_TIMEOUT_S = 5.0
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
    print(unsafe() or READY, flush=True)
    Server(listener).serve()


def unsafe() -> str | None:
    """Why this process must not be copied, if so."""
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        return f"the fork server has {threads} threads"
    descriptors = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
    if any(os.readlink(one).startswith("/dev/nvidia") for one in descriptors if os.path.islink(one)):
        return "the fork server has opened the GPU"
    return None


class Server:
    """One connection per worker, for as long as it lives."""

    def __init__(self, listener: socket.socket):
        self._listener = listener
        self._workers: dict[int, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._child_ended, wakeup = socket.socketpair()
        for one in (self._child_ended, wakeup):
            one.setblocking(False)
        self._wakeup = wakeup
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(self._child_ended, selectors.EVENT_READ)

    def serve(self) -> None:
        """Until this process is ended."""
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._listener:
                    self._take_request()
                elif key.fileobj is self._child_ended:
                    self._child_ended.recv(4096)
                    self._reap()
                elif key.data in self._workers:
                    os.kill(key.data, signal.SIGKILL)
                    self._selector.unregister(key.fileobj)

    def _take_request(self) -> None:
        connection, _ = self._listener.accept()
        connection.settimeout(REQUEST_TIMEOUT_S)
        try:
            request, stdio = receive(connection)
        except (OSError, ValueError):
            connection.close()
            return
        pid = -1 if unsafe() else os.fork()
        if pid == 0:
            self._leave()
            connection.close()
            become_worker(request, stdio)
        for descriptor in stdio:
            os.close(descriptor)
        with contextlib.suppress(OSError):  # a launcher that has gone: the selector sees that too
            connection.send(REFUSED if pid < 0 else FORKED)
        if pid < 0:
            connection.close()
            return
        self._workers[pid] = connection
        self._selector.register(connection, selectors.EVENT_READ, data=pid)

    def _reap(self) -> None:
        while self._workers:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            connection = self._workers.pop(pid)
            if connection.fileno() in self._selector.get_map():
                self._selector.unregister(connection)
            connection.close()

    def _leave(self) -> None:
        """In a new worker: let go of everything that is the server's."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._selector.close()
        for one in (self._listener, self._child_ended, self._wakeup, *self._workers.values()):
            one.close()


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """A request, and the launcher's standard input, output and error. Raises OSError or ValueError on anything less."""
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


def become_worker(request: dict[str, Any], stdio: list[int]) -> None:
    """Turn this new process into the worker that the launcher was asked for. Does not return."""
    status = 1
    try:
        for target, descriptor in enumerate(stdio):
            os.dup2(descriptor, target)
            os.close(descriptor)
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["env"])
        os.nice(max(0, request["nice"] - os.nice(0)))
        read_settings_anew()
        sys.argv = request["argv"]
        sys.path[0] = os.path.dirname(request["argv"][0])
        for entry in reversed(request["env"].get("PYTHONPATH", "").split(os.pathsep)):
            if entry and entry not in sys.path:
                sys.path.insert(0, entry)
        runpy.run_path(request["argv"][0], run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def read_settings_anew() -> None:
    """Ray keeps settings and token from its import, numpy and random their state: none of it is this worker's own."""
    import numpy as np
    from ray._raylet import AuthenticationTokenLoader, Config

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
    random.seed()
    np.random.seed()  # noqa: NPY002  libraries may use it


if __name__ == "__main__":
    main()
