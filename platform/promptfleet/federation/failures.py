"""What is done about work that failed: which client's is done again, whose update is dropped, and when to stop."""

import logging
from collections.abc import Sequence

from promptfleet.config import RuntimeConfig
from promptfleet.errors import FederationError
from promptfleet.federation.reports import Event

logger = logging.getLogger(__name__)


class StatesLost(FederationError):
    """States that lay in the memory of a node that is gone; those of an earlier round have to be gone on from."""


class FailsAgain(FederationError):
    """A federation that would fail in the same way if it were tried again."""


class ClientFails(FailsAgain):
    """A client raised an error each time its work was tried."""


class NothingAccepted(FailsAgain):
    """The server rejected every update of several rounds."""


class Failures:
    """Decides by ``runtime.on_client_failure`` and keeps what happened until somebody takes it."""

    def __init__(self, runtime: RuntimeConfig):
        self._runtime = runtime
        self._events: list[Event] = []

    def record(self, stage: str, clients: Sequence[int], what: str, action: str) -> None:
        event = Event(stage, list(clients), what, action)
        logger.warning("%s", event)
        self._events.append(event)

    def take(self) -> list[Event]:
        """What was recorded since the last call."""
        taken, self._events = self._events, []
        return taken

    def do_again(self, stage: str, client: int, what: str, attempts: int, *, may_drop: bool, details: str = "") -> bool:
        """Whether a client's work that failed ``attempts`` times before is done again; if not, its update is dropped.

        Only an update can be dropped (``may_drop``): whoever is dropped is still evaluated. ``details``, the traceback
        of what it raised, are logged where it is not done again; there are none where its process died or hung.

        Raises:
            FederationError: neither; ClientFails where it raised.
        """
        stops = ClientFails if details else FederationError
        policy = self._runtime.on_client_failure
        last = policy != "retry" or attempts >= self._runtime.retries
        if last and details:
            logger.error("client %d: %s", client, details)
        if policy == "drop" and may_drop:
            self.record(stage, [client], what, "dropped")
            return False
        if policy == "fail":
            raise stops(f"{stage}: client {client}: {what} (runtime.on_client_failure=fail)")
        if attempts >= self._runtime.retries:
            raise stops(f"{stage}: client {client}: {what}, {attempts + 1} times in a row (runtime.retries={attempts})")
        self.record(stage, [client], what, "done again")
        return True

    def server_failed(self, stage: str, what: str, attempts: int) -> None:
        """The server died or hung, ``attempts`` times before in this step. Raises FederationError if too often."""
        if attempts >= self._runtime.retries:
            raise FederationError(f"{stage}: {what} {attempts + 1} times in a row (runtime.retries={attempts})")
        self.record(stage, [], what, "restarted from the last round's state, done again")


def describe(error: BaseException) -> str:
    """``raised ValueError: the first line of its message``"""
    lines = str(error).strip().splitlines()
    return f"raised {type(error).__name__}: {lines[0]}" if lines else f"raised {type(error).__name__}"
