"""Runs that are started again if they are deleted in MLflow while being written."""

import logging
from collections.abc import Callable

from promptfleet.tracking.store import TrackingStore
from promptfleet.tracking.tracked_run import TrackedRun

logger = logging.getLogger(__name__)


class LastingRun:
    """Run that ``begin`` finds or creates. ``now`` is its last known state."""

    def __init__(self, begin: Callable[[], TrackedRun]):
        self._begin = begin
        self.now = begin()

    def renew(self) -> str | None:
        """Start the run again if it was deleted; return the deleted run's id then, and None for a run that is there.

        A run that returns with a restored experiment is the same run.
        """
        if not self.now.is_deleted:
            return None
        before = self.now.id
        self.now = self._begin()
        if self.now.id != before:
            logger.warning("tracking: run %r was deleted in MLflow; it is written again from its start", self.now.name)
        return before


class LastingParent(LastingRun):
    """Run that others are nested in; they move to the run that replaces it."""

    def __init__(self, store: TrackingStore, begin: Callable[[], TrackedRun]):
        super().__init__(begin)
        self._store = store

    def renew(self) -> str | None:
        before = super().renew()
        if before not in (None, self.now.id):
            self._store.adopt_children(before, self.now.id)
        return before

    def living_id(self) -> str:
        """Return the id of the run, which is started again if it was deleted."""
        self.renew()
        return self.now.id
