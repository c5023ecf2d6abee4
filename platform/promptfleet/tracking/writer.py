"""A background thread that writes, so that what drives a sweep never waits for a disk or a figure."""

import logging
import queue
import threading
import time
from collections.abc import Callable

from promptfleet.errors import first_line
from promptfleet.tracking.outages import PATIENCE_S, is_outage, waits

logger = logging.getLogger(__name__)


class BackgroundWriter:
    """Runs jobs one after the other in the order they were submitted. As a context manager it closes itself.

    While the store is locked or gone, everything is kept in order and written when it is back; once the writer is
    closed it waits for that no longer than a minute. Any other failure of a job is logged as a warning with its
    traceback, and the next one runs: tracking never ends a sweep. A job may run again after an outage in the middle.
    """

    def __init__(self, *, patience_s: float = PATIENCE_S) -> None:
        self._jobs: queue.SimpleQueue[tuple[Callable[..., object], tuple] | None] = queue.SimpleQueue()
        self._patience_s = patience_s
        self._closed = threading.Event()
        self._closed_at = float("inf")
        self._failures = 0
        # daemon: a driver that dies without close() must not hang on it
        self._thread = threading.Thread(target=self._run, name="promptfleet-tracking", daemon=True)
        self._thread.start()

    def __enter__(self) -> "BackgroundWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def failures(self) -> int:
        """How many jobs have failed so far."""
        return self._failures

    def submit(self, job: Callable[..., object], *arguments: object) -> None:
        """Run ``job(*arguments)`` later; returns at once. Raises RuntimeError after ``close``."""
        if self._closed.is_set():
            raise RuntimeError("the tracking writer is closed")
        self._jobs.put((job, arguments))

    def close(self) -> None:
        """Wait until everything submitted has run; a second call does nothing."""
        if not self._closed.is_set():
            self._closed_at = time.monotonic()
            self._closed.set()
            self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        lost = 0
        while (item := self._jobs.get()) is not None:
            lost += lost > 0 or not self._finished(*item)
        if lost:
            self._failures += lost
            logger.warning("tracking: the store did not come back; %d writes are not in it", lost)

    def _finished(self, job: Callable[..., object], arguments: tuple) -> bool:
        """Run a job, again and again through an outage; False if that did not end in time."""
        for wait in waits():
            try:
                job(*arguments)
                return True
            except Exception as error:
                if not is_outage(error):
                    self._failures += 1
                    logger.warning("tracking: %s failed: %s", _name_of(job), error, exc_info=True)
                    return True
                if time.monotonic() - self._closed_at > self._patience_s:
                    return False
                logger.warning("tracking: the store does not answer (%s); kept for later", first_line(error))
            self._closed.wait(wait) if not self._closed.is_set() else time.sleep(wait)
        raise AssertionError


def _name_of(job: Callable[..., object]) -> str:
    return getattr(job, "__qualname__", repr(job))
