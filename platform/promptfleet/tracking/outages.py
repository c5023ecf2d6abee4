"""Outages of a store that is locked or unreachable for a while: how to recognize them and wait for their end."""

import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from promptfleet.errors import PromptfleetError, first_line
from promptfleet.tracking.errors import TrackingError

T = TypeVar("T")
PATIENCE_S = 60.0
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 15.0

logger = logging.getLogger(__name__)


def is_outage(error: BaseException) -> bool:
    """Return True if the error is the database's or the network's, at any depth within MLflow's or Optuna's errors."""
    from sqlalchemy.exc import OperationalError

    outages = (sqlite3.OperationalError, OperationalError, ConnectionError, TimeoutError)
    return any(isinstance(one, outages) for one in causes(error))


def is_damage(error: BaseException) -> bool:
    """Return True if SQLite says that a file is no database, or malformed: its errors of no more special type."""
    return any(type(one) is sqlite3.DatabaseError for one in causes(error))


def cause(error: BaseException) -> str:
    """Return the first line of the error's innermost cause."""
    *_, last = causes(error)
    return first_line(last)


def reason(error: BaseException) -> str:
    """Return one line with the reason of a failed write."""
    if isinstance(error, PromptfleetError):
        return str(error)
    return cause(error) if is_outage(error) else f"{first_line(error)} ({type(error).__name__})"


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error, its cause, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def waits() -> Iterator[float]:
    """Yield the seconds to wait before each further attempt: doubled each time, up to a limit."""
    wait = FIRST_WAIT_S
    while True:
        yield wait
        wait = min(2 * wait, LONGEST_WAIT_S)


def persistently(job: Callable[[], T], *, store: str = "tracking: the store", patience_s: float = PATIENCE_S) -> T:
    """Return the result of ``job``, retrying it for ``patience_s`` during an outage, which is logged once.

    Raises:
        TrackingError: the store did not come back.
    """
    deadline = time.monotonic() + patience_s
    for attempt, wait in enumerate(waits()):
        try:
            return job()
        except Exception as error:
            if not is_outage(error):
                raise
            if time.monotonic() + wait > deadline:
                raise TrackingError(f"{store} cannot be used ({cause(error)})") from error
            if attempt == 0:
                logger.warning("%s cannot be used (%s); retrying for up to %.0f s", store, cause(error), patience_s)
            time.sleep(wait)
    raise AssertionError
