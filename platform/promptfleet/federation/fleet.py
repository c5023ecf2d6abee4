"""Where server and clients live. The round loop talks to a fleet and does not know whether Ray is behind it.

States, downloads, uploads and reports pass through the loop as handles: the values themselves in this process,
references into the object store under Ray. The loop hands them from one call to the next without looking inside.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from promptfleet.config import FederationConfig
from promptfleet.data.partition import Partition
from promptfleet.federation.reports import Evaluation, Event, TrainReport
from promptfleet.methods.protocol import Purpose, State

Handle = Any


@dataclass(frozen=True)
class CohortUpdate:
    """What the local updates of one round give: handles of the next private states by client id and of all uploads.

    ``dropped`` has the clients that gave nothing, and why.
    """

    privates: Mapping[int, Handle]
    uploads: Handle
    reports: Sequence[TrainReport]
    dropped: Mapping[int, str]


@dataclass(frozen=True)
class Intake:
    """What the server made of a round's uploads, by client id, with the reason.

    ``rejected`` never entered its state; ``excluded`` did, and is not given to others, see ``ExcludesClients``.
    """

    rejected: Mapping[int, str]
    excluded: Mapping[int, str]


class Fleet(Protocol):
    """A server and its clients. All mappings go by client id.

    Work that fails is handled as ``runtime.on_client_failure`` says; each step raises FederationError where that is to
    stop.
    """

    def begin(
        self, config: FederationConfig, partition: Partition, upload_noise: float = 0.0, rows: Path | None = None
    ) -> None:
        """Set up a federation; whatever ran here before leaves no trace. ``upload_noise``: see ``World``.

        ``rows`` is the folder of what the server keeps beside its state, if it does.
        """

    def initial_states(self) -> dict[int, Handle]:
        """Every client's private state before it ever trained."""

    def select(self, round_index: int, cohort: Sequence[int], purpose: Purpose = "train") -> Handle:
        """Downloads of the clients of ``cohort``."""

    def train(self, round_index: int, privates: Mapping[int, Handle], downloads: Handle) -> CohortUpdate:
        """Local updates of the clients that have a download and a private state here."""

    def aggregate(self, round_index: int, uploads: Handle) -> None:
        """Have the server take in uploads; what it is asked for next comes after them. Need not be waited for."""

    def evaluate(self, round_index: int, privates: Mapping[int, Handle], downloads: Handle) -> list[Evaluation]:
        """Evaluations of the clients that have a download and a private state here, in the order of ids."""

    def intake(self) -> Intake:
        """What became of the uploads of the last ``aggregate``; waits for it."""

    def server_state(self) -> Handle:
        """The server's state after the last ``aggregate``."""

    def load_server_state(self, state: State) -> None:
        """Have the server go on from ``state``. Raises DataError: what it refers to on disk is not there."""

    def fetch(self, server: Handle, privates: Mapping[int, Handle]) -> tuple[State, dict[int, State]]:
        """The states behind handles: the server's and private ones; may be called from any thread."""

    def put(self, privates: Mapping[int, State]) -> dict[int, Handle]:
        """Handles for private states."""

    def repack(self, privates: Mapping[int, Handle]) -> dict[int, Handle]:
        """Handles for the same states; those of one object may be behind several, and it goes with the last of them."""

    def take_events(self) -> list[Event]:
        """What went wrong since the last call, and what was done about it."""

    def close(self) -> None:
        """End everything that the fleet started."""
