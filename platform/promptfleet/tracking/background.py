"""Tracking of one federation during its rounds: an extra thread opens the store and writes.

Nothing is opened before the first round is over, so a federation that cannot be run leaves nothing in MLflow.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from promptfleet.config import FederationConfig
from promptfleet.federation.drive import Decision
from promptfleet.federation.reports import FederationResult, RoundReport
from promptfleet.tracking.federation_run import FederationRun
from promptfleet.tracking.run_names import changed_values, federation_name
from promptfleet.tracking.store import KIND_TAG, TrackingStore
from promptfleet.tracking.views import FEDERATIONS, federations_view
from promptfleet.tracking.writer import BackgroundWriter


class BackgroundFederationRun:
    """A ``FederationRun`` whose calls return at once. Made by ``track_federation``."""

    def __init__(self, config: FederationConfig, writer: BackgroundWriter):
        self._config, self._writer = config, writer
        self._store: TrackingStore | None = None
        self._run: FederationRun | None = None
        self._is_complete = False

    @property
    def ui_hint(self) -> str | None:
        """Hint how to look at the run, once everything was written; None if MLflow does not have it."""
        return self._store.ui_hint(FEDERATIONS) if self._store and self._run else None

    @property
    def untracked(self) -> str | None:
        """Reason why MLflow lacks a part of the run; None if it has everything, also rounds that failed before."""
        return None if self._is_complete else self._writer.last_reason

    @property
    def interrupted(self) -> bool:
        """True if Ctrl-C was pressed while everything was being written."""
        return self._writer.interrupted

    def after_round(self, report: RoundReport) -> Decision:
        """Write one round's metrics later."""
        self._writer.submit(lambda: self._opened().log_round(report))
        return Decision.CONTINUE

    def finish(self, result: FederationResult) -> None:
        self._writer.submit(self._finish, result)

    def interrupt(self) -> None:
        self._writer.submit(lambda: self._run and self._run.interrupt())

    def _finish(self, result: FederationResult) -> None:
        self._opened().finish(result)
        self._is_complete = True

    def _opened(self) -> FederationRun:
        if self._run is None:
            config = self._config
            self._store = TrackingStore.open(config.storage.folder)
            name, kind = federation_name(config), {KIND_TAG: "federation"}
            self._run = FederationRun.start(self._store, config, key=config.fingerprint(), name=name, tags=kind)
            self._store.widen_view(FEDERATIONS, federations_view, list(changed_values(config)))
        return self._run


@contextmanager
def track_federation(config: FederationConfig) -> Iterator[BackgroundFederationRun]:
    """Track one federation; on leaving, everything is written. The same configuration continues the same run.

    After an error or Ctrl-C the run is left as interrupted.
    """
    with BackgroundWriter() as writer:
        tracked = BackgroundFederationRun(config, writer)
        try:
            yield tracked
        except BaseException:
            tracked.interrupt()
            raise
