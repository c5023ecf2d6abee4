"""Outages of a database, a network or remote storage: how to recognize them, and one way to wait for their end."""

import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from promptfleet.errors import PromptfleetError, first_line

T = TypeVar("T")
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


def retried(
    job: Callable[[], T],
    *,
    passes: Callable[[Exception], bool],
    may_wait: Callable[[float], bool],
    wait: Callable[[float], object],
    begins: Callable[[Exception], object],
    ends: Callable[[], object] = lambda: None,
    waits_s: Iterable[float],
) -> T:
    """Return the result of ``job``, which is safe to repeat, after as many attempts as an outage takes.

    passes: an error is of an outage; another one is raised. may_wait: the given seconds, otherwise the error is raised.
    begins is called with the first error, ends before the result is returned if there was an outage. waits_s: seconds
    before each further attempt, without an end.
    """
    for attempt, seconds in enumerate(waits_s):
        try:
            result = job()
        except Exception as error:
            if not passes(error) or not may_wait(seconds):
                raise
            if attempt == 0:
                begins(error)
        else:
            if attempt:
                ends()
            return result
        wait(seconds)
    raise AssertionError


def patiently(job: Callable[[], T], *, store: str, patience_s: float) -> T:
    """Return the result of ``job``, retrying it for ``patience_s`` during an outage of ``store``, which is logged once.

    Raises the last error of an outage that takes longer.
    """
    deadline = time.monotonic() + patience_s
    return retried(
        job,
        passes=is_outage,
        may_wait=lambda seconds: time.monotonic() + seconds <= deadline,
        wait=lambda seconds: time.sleep(seconds),
        begins=lambda error: logger.warning(
            "%s cannot be used (%s); retrying for up to %.0f s", store, cause(error), patience_s
        ),
        waits_s=waits(),
    )
