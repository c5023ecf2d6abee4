"""Simulated failures of clients: each client of a cohort delivers its update in time, or not.

Time is simulated: an update takes a multiple of the median client's time, so results stay a function of the
configuration. For real failures see ``failures``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from promptfleet.config import FaultsConfig
from promptfleet.seeding import stream


@dataclass(frozen=True)
class Turnout:
    """Clients of a cohort that take part, in ascending order, and the reasons why the others do not.

    ``time`` is when the server stops waiting, in updates of the median client.
    """

    present: Sequence[int]
    missing: dict[int, str]
    time: float


def turnout(seed: int, round_index: int, cohort: Sequence[int], wanted: int, faults: FaultsConfig) -> Turnout:
    """Draw the fate of each client of ``cohort``; the first ``wanted`` that finish before the deadline are present.

    Each client's draw is independent of the others: a function of (seed, client, round).
    """
    missing, finished = {}, []
    for client in cohort:
        rng = stream(seed, "faults", client=client, round_index=round_index)
        reached, survived, slowness, tie = rng.random(), rng.random(), rng.normal(), rng.random()
        seconds = math.exp(faults.straggle * slowness)
        if reached < faults.drop_rate:
            missing[client] = "could not be reached (faults.drop_rate)"
        elif survived < faults.crash_rate:
            missing[client] = "crashed (faults.crash_rate)"
        elif faults.deadline is not None and seconds > faults.deadline:
            missing[client] = f"took {seconds:.3g}, faults.deadline={faults.deadline:g}"
        else:
            finished.append((seconds, tie, client))
    finished.sort()
    for *_, client in finished[wanted:]:
        missing[client] = f"was not among the first {wanted} (faults.over_selection)"
    finished = finished[:wanted]
    waits_for_more = len(finished) < wanted and faults.deadline is not None
    time = faults.deadline if waits_for_more else max((seconds for seconds, *_ in finished), default=0.0)
    return Turnout(sorted(client for *_, client in finished), dict(sorted(missing.items())), time)
