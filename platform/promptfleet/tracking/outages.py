"""A store that is locked, or gone for a while: telling that from mistakes, and waiting for its return."""

import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from promptfleet.errors import first_line

T = TypeVar("T")
PATIENCE_S = 60.0
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 15.0

logger = logging.getLogger(__name__)


def is_outage(error: BaseException) -> bool:
    """Whether the error is the database's or the network's, at whatever depth MLflow or Optuna has wrapped it."""
    from sqlalchemy.exc import OperationalError

    return any(isinstance(one, (sqlite3.OperationalError, OperationalError, ConnectionError)) for one in _chain(error))


def cause(error: BaseException) -> str:
    """The first line of what lies at the bottom of the error."""
    *_, last = _chain(error)
    return first_line(last)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def waits() -> Iterator[float]:
    """Seconds to wait before each further attempt: twice as long each time, up to a limit."""
    wait = FIRST_WAIT_S
    while True:
        yield wait
        wait = min(2 * wait, LONGEST_WAIT_S)


def persistently(job: Callable[[], T], *, store: str = "tracking: the store", patience_s: float = PATIENCE_S) -> T:
    """What ``job`` gives once the store is there, waiting up to a minute for it; then raises what ``job`` raised."""
    deadline = time.monotonic() + patience_s
    for wait in waits():
        try:
            return job()
        except Exception as error:
            if not is_outage(error) or time.monotonic() + wait > deadline:
                raise
            logger.warning("%s cannot be used (%s); trying again", store, cause(error))
            time.sleep(wait)
    raise AssertionError
