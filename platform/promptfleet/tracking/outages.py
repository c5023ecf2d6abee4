"""Outages of MLflow's store, which tracking waits for."""

from collections.abc import Callable
from typing import TypeVar

from promptfleet.outages import cause, is_outage, patiently
from promptfleet.tracking.errors import TrackingError

T = TypeVar("T")
PATIENCE_S = 60.0


def persistently(job: Callable[[], T], *, patience_s: float = PATIENCE_S) -> T:
    """Return the result of ``job``, retrying it for ``patience_s`` during an outage, which is logged once.

    Raises:
        TrackingError: the store did not come back.
    """
    store = "tracking: the store"
    try:
        return patiently(job, store=store, patience_s=patience_s)
    except Exception as error:
        if is_outage(error):
            raise TrackingError(f"{store} cannot be used ({cause(error)})") from error
        raise
