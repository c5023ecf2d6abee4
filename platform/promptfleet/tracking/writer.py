"""A background thread that writes, so that what drives a sweep never waits for a disk or a figure."""

import logging
import queue
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)


class BackgroundWriter:
    """Runs jobs one after the other in the order they were submitted. As a context manager it closes itself.

    A job that fails is logged as a warning with its traceback, and the next one runs: tracking never ends a sweep.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Callable[..., object], tuple] | None] = queue.SimpleQueue()
        self._closed = False
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
        if self._closed:
            raise RuntimeError("the tracking writer is closed")
        self._jobs.put((job, arguments))

    def close(self) -> None:
        """Wait until everything submitted has run; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, arguments = item
            try:
                job(*arguments)
            except Exception as error:
                self._failures += 1
                logger.warning("tracking: %s failed: %s", _name_of(job), error, exc_info=True)


def _name_of(job: Callable[..., object]) -> str:
    return getattr(job, "__qualname__", repr(job))
