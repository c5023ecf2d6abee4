"""Replacement for Python when Ray starts a worker: the fork server makes it; all else is started as it is.

Run by itself, by the bare interpreter, so it imports nothing but the standard library. It stays as long as the worker
lives, since Ray watches and ends the process that it started; as ``cat``, which waits for the server's hang-up in half
a megabyte.
"""

import array
import json
import os
import shutil
import socket
import sys

PYTHON, SOCKET = "PROMPTFLEET_PYTHON", "PROMPTFLEET_FORK_SERVER"
WORKER = "default_worker.py"
CONTEXT, LANGUAGE = "--serialized-runtime-env-context=", "--language="
FORKED = b"1"
ANSWER_TIMEOUT_S = 30.0


def main() -> None:
    python, arguments = os.environ[PYTHON], sys.argv[1:]
    request = worker_request(arguments, python)
    connection = None if request is None else ask(request, os.environ[SOCKET])
    waiter = shutil.which("cat")
    if connection is None or waiter is None:
        os.execv(python, [python, *arguments])
    os.dup2(connection.fileno(), 0)
    os.execv(waiter, [waiter])


def worker_request(arguments: list[str], python: str) -> dict | None:
    """Return the data with which the server becomes this worker; None for all but a plain Python worker."""
    place = next((index for index, argument in enumerate(arguments) if os.path.basename(argument) == WORKER), None)
    if place is None or any("SPILL" in argument or "RESTORE" in argument for argument in arguments):
        return None
    context = next((json.loads(one[len(CONTEXT) :] or "{}") for one in arguments if one.startswith(CONTEXT)), {})
    if context.get("command_prefix") or context.get("override_worker_entrypoint"):
        return None
    if context.get("py_executable") not in (None, "", python, sys.argv[0]):
        return None
    return {
        "argv": [one for one in arguments[place:] if not one.startswith((CONTEXT, LANGUAGE))],
        "env": {**os.environ, **context.get("env_vars", {})},
        "cwd": os.getcwd(),
        "nice": os.nice(0),
    }


def ask(request: dict, path: str) -> socket.socket | None:
    """Return the connection to the server that forked; None if there is none or it refused."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(ANSWER_TIMEOUT_S)
    try:
        connection.connect(path)
        data = json.dumps(request).encode()
        stdio = array.array("i", [0, 1, 2])
        head = len(data).to_bytes(4, "big")
        connection.sendmsg([head], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, stdio)])
        connection.sendall(data)
        if connection.recv(1) != FORKED:
            return None
    except OSError:
        return None
    connection.settimeout(None)
    return connection


if __name__ == "__main__":
    main()
