"""Where server and clients live. The round loop talks to a fleet and does not know whether Ray is behind it.

States, downloads, uploads and reports pass through the loop as handles: the values themselves in this process,
references into the object store under Ray. The loop hands them from one call to the next without looking inside.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from promptfleet.config import FederationConfig
from promptfleet.data.partition import Partition
from promptfleet.federation.reports import Evaluation, TrainReport
from promptfleet.methods.protocol import State

Handle = Any


@dataclass(frozen=True)
class CohortUpdate:
    """Handles of what the local updates of one round give: private states by client id, the rest for all together."""

    privates: Mapping[int, Handle]
    uploads: Handle
    reports: Handle


class Fleet(Protocol):
    """A server and its clients. All mappings go by client id."""

    def begin(self, config: FederationConfig, partition: Partition) -> None:
        """Set up a federation; whatever ran here before leaves no trace."""

    def initial_states(self) -> dict[int, Handle]:
        """Every client's private state before it ever trained."""

    def select(self, round_index: int, cohort: Sequence[int]) -> Handle:
        """Downloads of the clients of ``cohort``."""

    def train(self, round_index: int, privates: Mapping[int, Handle], downloads: Handle) -> CohortUpdate:
        """Local updates of the clients that have a download."""

    def aggregate(self, round_index: int, uploads: Handle) -> dict[int, str]:
        """Returns why which uploads were rejected."""

    def evaluate(self, round_index: int, privates: Mapping[int, Handle], downloads: Handle) -> list[Evaluation]:
        """Evaluations of the clients that have a download, in the order of ids."""

    def reports(self, reports: Handle) -> list[TrainReport]: ...

    def fetch(self, privates: Iterable[Handle]) -> list[State]:
        """The private states behind handles."""

    def put(self, state: State) -> Handle:
        """A handle for a private state."""

    def server_state(self) -> State: ...

    def load_server_state(self, state: State) -> None: ...

    def close(self) -> None:
        """End everything that the fleet started."""
