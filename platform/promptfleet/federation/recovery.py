"""Recovery of rounds whose states were lost with their node: computed again from the last stored ones."""

from collections.abc import Callable
from itertools import count

from promptfleet.federation.failures import StatesLost
from promptfleet.federation.reports import Event, RoundReport
from promptfleet.federation.rounds import Federation, Snapshot


def run_next_round(federation: Federation, newest: Callable[[], Snapshot | None]) -> RoundReport:
    """Run the next round; ``newest`` gives the last stored snapshot, None if the run must start again.

    Raises StatesLost: states were lost repeatedly (``runtime.retries``).
    """
    wanted = federation.rounds_done + 1
    why = ""
    untold: list[Event] = []  # kept until the wanted round, since earlier rounds were reported already
    for attempt in count():
        try:
            if attempt:
                untold.append(_go_back(federation, newest(), why))
            while federation.rounds_done < wanted:
                while untold and federation.rounds_done == wanted - 1:
                    federation.record(untold.pop(0))
                federation.run_round()
            return federation.reports[-1]
        except StatesLost as error:
            if attempt >= federation.config.runtime.retries:
                raise
            why = str(error)
    raise AssertionError


def _go_back(federation: Federation, snapshot: Snapshot | None, why: str) -> Event:
    federation.begin_anew()
    if snapshot is not None:
        federation.restore(snapshot)
    return Event("states", [], why, f"computed again from round {federation.rounds_done + 1} on")
