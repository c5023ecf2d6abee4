"""A store that is locked, or gone for a while: telling that from mistakes, and waiting for its return."""

import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")
PATIENCE_S = 60.0
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 15.0

logger = logging.getLogger(__name__)


def is_outage(error: BaseException) -> bool:
    """Whether the error is the database's or the network's, at whatever depth MLflow has wrapped it."""
    from sqlalchemy.exc import OperationalError

    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, (sqlite3.OperationalError, OperationalError, ConnectionError)):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def waits() -> Iterator[float]:
    """Seconds to wait before each further attempt: twice as long each time, up to a limit."""
    wait = FIRST_WAIT_S
    while True:
        yield wait
        wait = min(2 * wait, LONGEST_WAIT_S)


def persistently(job: Callable[[], T]) -> T:
    """What ``job`` gives once the store is there, waiting up to a minute for it; then raises what ``job`` raised."""
    deadline = time.monotonic() + PATIENCE_S
    for wait in waits():
        try:
            return job()
        except Exception as error:
            if not is_outage(error) or time.monotonic() + wait > deadline:
                raise
            logger.warning("tracking: the store does not answer (%s); trying again", first_line(error))
            time.sleep(wait)
    raise AssertionError


def first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
