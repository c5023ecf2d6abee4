"""Lease of an address: a file there names the job that uses it and is renewed, since object stores have no locks.

Two jobs that start within the same seconds may both run until one of them looks again; see docs/cluster.md.
"""

import json
import logging
import os
import socket
import time
from dataclasses import asdict, dataclass
from typing import Any

from promptfleet.errors import DataError
from promptfleet.storage.remote import RemoteFolder
from promptfleet.strict_json import parse_json

FILE = ".in-use.json"
RENEW_S = 2.5
WATCH_S = 10.0  # a lease that is not renewed for this long has expired

logger = logging.getLogger(__name__)


class Lease:
    """Lease for the working folder called ``folder``. Methods raise OSError if the address refuses."""

    def __init__(self, remote: RemoteFolder, folder: str):
        self._remote = remote
        self._mine = {"folder": folder, "process": os.getpid(), "host": socket.gethostname()}
        self._count = 0
        self._renewed = -float("inf")

    def take(self) -> str | None:
        """Take a free or abandoned lease; return the working folder of its former holder.

        Raises DataError: another job renews it.
        """
        held = self._read()
        if held and held["held"] and held["folder"] != self._mine["folder"]:
            logger.warning(
                "%s is marked as in use by process %s on %s: watching for %.0f s whether it still is",
                self._remote.address,
                held["process"],
                held["host"],
                WATCH_S,
            )
            deadline = time.monotonic() + WATCH_S
            while time.monotonic() < deadline:
                time.sleep(min(1.0, WATCH_S))
                if self._read() != held:
                    raise self._taken(held)
        self._write(held=True)
        return held and held["folder"]

    def renew(self) -> None:
        """Renew the lease, unless that was done just before. Raises DataError: another job has taken it."""
        if time.monotonic() < self._renewed + RENEW_S:
            return
        held = self._read()
        if held is not None and {key: held[key] for key in self._mine} != self._mine:
            raise self._taken(held)
        self._write(held=True)

    def leave(self) -> None:
        self._write(held=False)

    def _read(self) -> dict[str, Any] | None:
        text = self._remote.read(FILE)
        if text is None:
            return None
        try:
            return asdict(parse_json(_Held, text))
        except ValueError as error:
            raise DataError(
                f"{self._remote.address}/{FILE}: damaged ({error}); remove it if no job is at work there"
            ) from None

    def _write(self, *, held: bool) -> None:
        self._count += 1
        self._remote.write(FILE, json.dumps({**self._mine, "held": held, "count": self._count}).encode())
        self._renewed = time.monotonic()

    def _taken(self, by: dict[str, Any]) -> DataError:
        return DataError(
            f"storage.path={self._remote.address}: process {by['process']} on {by['host']} is at work there; "
            f"wait for it, or end it"
        )


@dataclass(frozen=True)
class _Held:
    folder: str
    process: int
    host: str
    held: bool
    count: int
