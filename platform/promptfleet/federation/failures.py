"""Policy for failed work: repeat it, drop the client's update, or stop."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from promptfleet.config import RuntimeConfig
from promptfleet.errors import FederationError, PromptfleetError
from promptfleet.federation.reports import Event
from promptfleet.federation.traces import own_trace, raised_at

logger = logging.getLogger(__name__)
DEBUG = "to debug it in one process: jobs/train.py with --set runtime.backend=local"


class StatesLost(FederationError):
    """States were lost with their node; the run must resume from an earlier round."""


class FailsAgain(FederationError):
    """A federation that would fail in the same way if it were tried again."""


class NothingAccepted(FailsAgain):
    """The server rejected every update of several rounds."""


class CodeFails(FailsAgain):
    """A method's code raised an error that it would raise again."""


@dataclass(frozen=True)
class Failure:
    """Failure of a client's work; ``trace`` is the traceback if its code raised.

    ``may_pass``: it may go well next time.
    """

    what: str
    trace: str = ""
    may_pass: bool = True

    @classmethod
    def of(cls, error: BaseException, trace: str) -> "Failure":
        """Return the failure of code that raised; only a momentary shortage of the machine may pass."""
        lacks = isinstance(error, OSError | MemoryError) or "OutOfMemory" in type(error).__name__
        told = isinstance(error, PromptfleetError)  # in words that need no traceback
        return cls(describe(error), "" if told else trace, may_pass=lacks)

    def __str__(self) -> str:
        place = raised_at(self.trace)
        return f"{self.what} ({place})" if place else self.what


class Failures:
    """Decisions by ``runtime.on_client_failure``, and the events so far until ``take``."""

    def __init__(self, runtime: RuntimeConfig):
        self._runtime = runtime
        self._events: list[Event] = []
        self._raised: set[tuple[str, str]] = set()  # by clients alone, since the last ``take``

    def record(self, stage: str, clients: Sequence[int], what: str, action: str) -> None:
        event = Event(stage, list(clients), what, action)
        logger.warning("%s", event)
        self._events.append(event)

    def take(self) -> list[Event]:
        """Return the events since the last call."""
        taken, self._events = self._events, []
        self._raised.clear()
        return taken

    def do_again(self, stage: str, client: int, failure: Failure, attempts: int, *, may_drop: bool) -> bool:
        """Return True if work of a client that failed ``attempts`` times before is done again, False if it is dropped.

        Only an update can be dropped (``may_drop``): the dropped client is still evaluated. An error that cannot pass
        is not tried a third time, also if another client raised it before. The traceback is logged if the work is not
        done again.

        Raises:
            FederationError: neither; CodeFails if it raised.
        """
        policy, retries = self._runtime.on_client_failure, self._runtime.retries
        drops = policy == "drop" and may_drop
        seen = not failure.may_pass and (stage, str(failure)) in self._raised
        self._raised.add((stage, str(failure)))
        if policy != "fail" and not drops and attempts < retries and not seen:
            self.record(stage, [client], failure.what, "done again")
            return True
        _log_trace(f"client {client}", failure.trace)
        if drops:
            self.record(stage, [client], failure.what, "dropped")
            return False
        if policy == "fail":
            why = " (runtime.on_client_failure=fail)"
        elif attempts >= retries:
            why = f", {attempts + 1} times in a row (runtime.retries={attempts})"
        else:
            why = f", {attempts + 1} times in a row" if attempts else ", as another client's work did"
        stops = FederationError if failure.may_pass and not failure.trace else CodeFails
        raise stops(f"{stage}: client {client}: {failure}{why}{self._how_to_debug(failure)}")

    def code_raised(self, who: str, error: BaseException, trace: str) -> PromptfleetError:
        """Return the error to raise for code that is not tried again, such as the server's."""
        if isinstance(error, PromptfleetError):
            return error
        failure = Failure.of(error, trace)
        _log_trace(who, trace)
        return CodeFails(f"{who} {failure}{self._how_to_debug(failure)}")

    def _how_to_debug(self, failure: Failure) -> str:
        return f"; {DEBUG}" if failure.trace and self._runtime.backend == "ray" else ""

    def server_failed(self, stage: str, what: str, attempts: int) -> None:
        """Record a failure of the server, after ``attempts`` in this step. Raises FederationError if too often."""
        if attempts >= self._runtime.retries:
            raise FederationError(f"{stage}: {what} {attempts + 1} times in a row (runtime.retries={attempts})")
        self.record(stage, [], what, "restarted from the last round's state, done again")


def _log_trace(who: str, trace: str) -> None:
    for line in own_trace(trace).splitlines():  # a message of the log is one line
        logger.error("%s: %s", who, line)


def describe(error: BaseException) -> str:
    """Return ``raised ValueError: the first line of its message``."""
    lines = str(error).strip().splitlines()
    return f"raised {type(error).__name__}: {lines[0]}" if lines else f"raised {type(error).__name__}"
