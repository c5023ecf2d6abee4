"""The driver of a federation, single or a trial: round after round, with listeners after each one."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from promptfleet.federation.checkpoints.folder import FederationFolder
from promptfleet.federation.failures import NothingAccepted
from promptfleet.federation.recovery import run_next_round
from promptfleet.federation.reports import RoundReport, nothing_accepted
from promptfleet.federation.rounds import Federation


class Decision(Enum):
    """A listener's answer to a round: the federation continues, or ends early."""

    CONTINUE = "continue"
    STOP = "stop"


class Listener(Protocol):
    """Something that acts after each round: it saves, tracks, shows progress or stops the federation."""

    def after_round(self, report: RoundReport) -> Decision:
        """Take the report of the round that was just run, and decide whether another one is run."""


def rounds(
    federation: Federation,
    folder: FederationFolder | None = None,
    listeners: Sequence[Listener] = (),
    *,
    reported: int | None = None,
) -> Iterator[RoundReport]:
    """Run the rounds that are left, and yield the report of each one after all ``listeners``, in their order, had it.

    The iteration ends after the last round, or after one to which a listener answers STOP. folder: has the states to
    resume from where those of clients were lost with a node. reported: rounds whose reports are known already, all that
    are done unless it is given; those after it, which an earlier process has run, are reported first.

    Raises:
        StatesLost: that happened again and again (``runtime.retries``).
        FederationError: too many failures, see ``runtime.on_client_failure``.
    """
    newest = folder.newest if folder is not None else lambda: None
    index = federation.rounds_done if reported is None else reported
    decisions: set[Decision] = set()
    while index < federation.config.rounds and Decision.STOP not in decisions:
        if index == federation.rounds_done:
            run_next_round(federation, newest)
        report = federation.reports[index]
        decisions = {listener.after_round(report) for listener in listeners}
        index += 1
        yield report


@dataclass(frozen=True)
class Checkpoints:
    """Listener that writes each round to the federation's folder, while the next one is run.

    With ``wait`` a round is on disk before a later listener has its report. Raises DataError then: the last round could
    not be written.
    """

    folder: FederationFolder
    rounds: int
    wait: bool = False

    def after_round(self, report: RoundReport) -> Decision:
        if report.round > self.folder.rounds_saved:
            self.folder.save()
        if self.wait and report.round == self.rounds:
            self.folder.flush()
        elif self.wait:
            self.folder.wait()
        return Decision.CONTINUE


@dataclass(frozen=True)
class RequireAccepted:
    """Listener that raises NothingAccepted once the federation learns nothing more, see ``nothing_accepted``."""

    federation: Federation

    def after_round(self, report: RoundReport) -> Decision:
        reports = self.federation.reports[: report.round]
        if reason := nothing_accepted(reports, self.federation.config.rounds):
            raise NothingAccepted(reason)
        return Decision.CONTINUE


@dataclass(frozen=True)
class Calling:
    """Listener that calls a function with each report."""

    function: Callable[[RoundReport], object]

    def after_round(self, report: RoundReport) -> Decision:
        self.function(report)
        return Decision.CONTINUE
