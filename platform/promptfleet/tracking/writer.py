"""Background thread that writes, so that a sweep's driver never waits for a disk or a figure."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import NamedTuple

from promptfleet.outages import is_outage, reason, retried, waits
from promptfleet.tracking.outages import PATIENCE_S

logger = logging.getLogger(__name__)
SLOW_S = 20.0  # waiting for longer than this is logged
PROGRESS_S = 10.0  # seconds between reports of progress then
LATE_S = 60.0  # seconds for late jobs once the writer is closed
LATE_AT_END_S = 180.0  # the same where everything has run to its end, and nothing else waits for it
LATE_REST = 9  # times the duration of a late job until the next one: they use a tenth of a processor
_NOW, _LATE, _END = range(3)  # in this order


class _Item(NamedTuple):
    """Job in its turn; ``number`` keeps the order of submission."""

    turn: int
    number: int
    job: Callable[..., object]
    arguments: tuple


class BackgroundWriter:
    """Writer that runs jobs one after the other in the order of submission. As a context manager it closes itself.

    Late jobs run when no others wait, and with pauses until the writer closes: others of this process come first. They
    may be submitted by jobs, also while the writer closes; those that are left after ``close`` has waited are left out
    and counted.

    While the store is locked or unreachable, all jobs are kept in order and run when it is back; once the writer is
    closed it waits for that no longer than a minute. Any other failure of a job is a warning, and the next job runs:
    tracking never ends a sweep. An outage, and each reason of a failure, is logged once, when it begins. A job may run
    again after an outage in the middle.
    """

    def __init__(self, *, patience_s: float = PATIENCE_S) -> None:
        # Ctrl-C within the put of other queues, or within Event.wait, may leave a lock taken for ever
        self._submitted: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._waiting: list[_Item] = []  # a heap; of the thread alone
        self._numbers = count()
        self._patience_s = patience_s
        self._closed = threading.Event()
        self._closed_at = self._late_until = float("inf")
        self._rest_until = float("-inf")  # of late jobs
        self._failures = 0
        self._reasons: list[str] = []
        self._over: queue.SimpleQueue[None] = queue.SimpleQueue()  # Ctrl-C in Thread.join makes a thread count as ended
        self._is_over = False
        self._hurried = threading.Event()
        self._gave_up = False
        self.left_out = 0  # late jobs
        # daemon: a driver that dies without close() must not hang on it
        self._thread = threading.Thread(target=self._run, name="promptfleet-tracking", daemon=True)
        self._thread.start()

    def __enter__(self) -> "BackgroundWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def failures(self) -> int:
        """Number of failed jobs so far."""
        return self._failures

    @property
    def last_reason(self) -> str | None:
        """Reason of a failed job; of several reasons the last new one."""
        return self._reasons[-1] if self._reasons else None

    @property
    def interrupted(self) -> bool:
        """True if Ctrl-C was pressed while ``close`` waited."""
        return self._hurried.is_set()

    def submit(self, job: Callable[..., object], *arguments: object) -> None:
        """Run ``job(*arguments)`` later; returns at once. Raises RuntimeError after ``close``."""
        if self._closed.is_set():
            raise RuntimeError("the tracking writer is closed")
        self._put(_NOW, job, *arguments)

    def submit_late(self, job: Callable[..., object], *arguments: object) -> None:
        """Run ``job(*arguments)`` when no other job waits, if there is time for it; returns at once."""
        self._put(_LATE, job, *arguments)

    def close(self, *, late_s: float = LATE_S) -> None:
        """Wait until everything submitted has run, and for late jobs for ``late_s`` seconds; may be called again.

        Ctrl-C raises nothing: after the first one, late jobs are left out, and the store is not waited for; after the
        second one, nothing is.
        """
        self._late_until = min(self._late_until, time.monotonic() + late_s)
        while not self._is_over and not self._gave_up:
            try:
                self._end_submissions()
                self._wait_until_over()
            except KeyboardInterrupt:
                self._give_up() if self._hurried.is_set() else self._hurry()

    def _end_submissions(self) -> None:
        if not self._closed.is_set():
            self._closed_at = min(self._closed_at, time.monotonic())
            self._closed.set()
        self._put(_END, lambda: None)

    def _wait_until_over(self) -> None:
        wait_s = SLOW_S
        while not self._is_over:
            try:
                self._over.get(timeout=wait_s)
            except queue.Empty:
                left = self._submitted.qsize() + len(self._waiting)
                logger.info("tracking: waiting until everything is written to MLflow, %d writes left", left)
                wait_s = PROGRESS_S

    def _hurry(self) -> None:
        self._late_until = self._closed_at = float("-inf")
        self._hurried.set()
        logger.info(
            "tracking: no more figures are drawn after this one; Ctrl-C again ends at once, without the writes left"
        )

    def _give_up(self) -> None:
        self._gave_up = True
        self._failures += 1
        self._reasons.append("interrupted")

    def _put(self, turn: int, job: Callable[..., object], *arguments: object) -> None:
        self._submitted.put(_Item(turn, next(self._numbers), job, arguments))

    def _next(self) -> _Item:
        """Return the next job, a late one only after its rest or once the writer is closed."""
        while True:
            try:
                heappush(self._waiting, self._submitted.get(timeout=self._patience_with_first()))
            except queue.Empty:
                return heappop(self._waiting)

    def _patience_with_first(self) -> float | None:
        """Return the seconds to wait for a job that comes before the first that waits; None without one."""
        if not self._waiting:
            return None
        if self._waiting[0].turn != _LATE or self._closed.is_set():
            return 0.0
        return max(0.0, self._rest_until - time.monotonic())

    def _run(self) -> None:
        try:
            self._run_jobs()
        finally:
            self._is_over = True
            self._over.put(None)

    def _run_jobs(self) -> None:
        lost = 0
        while (item := self._next()).turn != _END:
            if item.turn == _LATE and (lost or time.monotonic() > self._late_until):
                self.left_out += 1
                continue
            started = time.monotonic()
            lost += lost > 0 or not self._finished(item.job, item.arguments)
            if item.turn == _LATE:
                self._rest_until = time.monotonic() + LATE_REST * (time.monotonic() - started)
        if lost:
            self._failures += lost
            logger.warning("tracking: the store did not come back; %d writes are not in it", lost)

    def _finished(self, job: Callable[..., object], arguments: tuple) -> bool:
        """Run a job, repeatedly through an outage; return False if the outage did not end in time."""
        try:
            retried(
                lambda: job(*arguments),
                passes=is_outage,
                may_wait=lambda seconds: time.monotonic() - self._closed_at <= self._patience_s,
                wait=self._wait,
                begins=lambda error: logger.warning(
                    "tracking: the store does not answer (%s); kept for later", reason(error)
                ),
                ends=lambda: logger.info("tracking: the store answers again"),
                waits_s=waits(),
            )
        except Exception as error:
            if is_outage(error):
                self._reasons.append(reason(error))
                return False
            self._fail(error)
        return True

    def _wait(self, seconds: float) -> None:
        """Wait, or try again as soon as the writer is closed, or Ctrl-C is pressed then."""
        (self._hurried if self._closed.is_set() else self._closed).wait(seconds)

    def _fail(self, error: Exception) -> None:
        self._failures += 1
        why = reason(error)
        if why not in self._reasons:
            self._reasons.append(why)
            logger.warning("tracking: MLflow lacks a part of this run: %s", why)
        logger.debug("the write that failed", exc_info=error)
