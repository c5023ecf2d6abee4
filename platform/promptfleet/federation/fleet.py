"""Interface between the round loop and the processes of server and clients, with Ray or without it.

States, downloads, uploads and reports pass through the loop as handles: the values themselves in this process,
references into the object store under Ray. The loop hands them from one call to the next without looking inside.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from promptfleet.config import FederationConfig
from promptfleet.data.partition import Partition
from promptfleet.federation.evaluation.schedule import Plan
from promptfleet.federation.evaluation.scores import Evaluation
from promptfleet.federation.reports import Event, TrainReport
from promptfleet.methods.protocol import Purpose, State

Handle = Any


@dataclass(frozen=True)
class CohortUpdate:
    """Results of one round's local updates: handles of the next private states by client id and of all uploads.

    ``dropped`` has the clients without a result, and the reason.
    """

    privates: Mapping[int, Handle]
    uploads: Handle
    reports: Sequence[TrainReport]
    dropped: Mapping[int, str]


@dataclass(frozen=True)
class Intake:
    """Fate of a round's uploads on the server, by client id, with the reason.

    ``rejected`` uploads never entered its state; ``excluded`` ones did, but are not given to others, see
    ``ExcludesClients``.
    """

    rejected: Mapping[int, str]
    excluded: Mapping[int, str]


class Fleet(Protocol):
    """Server and its clients. All mappings go by client id.

    Failed work is handled by ``runtime.on_client_failure``; each step raises FederationError if that says to stop.

    Work that fails is handled as ``runtime.on_client_failure`` says; each step raises FederationError where that is to
    stop.
    """

    def begin(
        self, config: FederationConfig, partition: Partition, upload_noise: float = 0.0, rows: Path | None = None
    ) -> None:
        """Set up a federation, without a trace of an earlier one. ``upload_noise``: see ``World``.

        ``rows`` is the folder for the server's rows, if it keeps any.
        """

    def initial_states(self) -> dict[int, Handle]:
        """Return every client's private state before its first training."""

    def select(self, round_index: int, cohort: Sequence[int], purpose: Purpose = "train") -> Handle:
        """Select the downloads of the clients of ``cohort``."""

    def train(self, round_index: int, privates: Mapping[int, Handle], downloads: Handle) -> CohortUpdate:
        """Run local updates of the clients that have a download and a private state here."""

    def aggregate(self, round_index: int, uploads: Handle) -> None:
        """Start aggregating. Returns at once; later server calls run after it."""

    def evaluate(
        self, round_index: int, privates: Mapping[int, Handle], downloads: Handle, plan: Plan
    ) -> list[Evaluation]:
        """Evaluate the clients that have a download and a private state here, as ``plan`` says; in the order of ids."""

    def intake(self) -> Intake:
        """Return the fate of the uploads of the last ``aggregate``; waits for it."""

    def server_state(self) -> Handle:
        """Return the server's state after the last ``aggregate``."""

    def load_server_state(self, state: State) -> None:
        """Replace the server's state by ``state``. Raises DataError: rows that it refers to are missing on disk."""

    def fetch(self, server: Handle, privates: Mapping[int, Handle]) -> tuple[State, dict[int, State]]:
        """Return the states behind handles: the server's and private ones; may be called from any thread."""

    def put(self, privates: Mapping[int, State]) -> dict[int, Handle]:
        """Return handles for private states."""

    def repack(self, privates: Mapping[int, Handle]) -> dict[int, Handle]:
        """Repack states so that a shared object can be freed once few clients still use it; return the handles."""

    def take_events(self) -> list[Event]:
        """Return the failures since the last call, and the reactions to them."""

    def close(self) -> None:
        """End all processes that the fleet started."""
