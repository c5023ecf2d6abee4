"""Simulated failures of clients: who of a cohort gets its update to the server in time.

Time is simulated: an update takes a multiple of what it takes the median client, so results stay a function of the
configuration. What really fails is another matter, see ``failures``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from promptfleet.config import FaultsConfig
from promptfleet.seeding import stream


@dataclass(frozen=True)
class Turnout:
    """Who of a cohort takes part: ids in ascending order, and why the others do not.

    ``time`` is when the server stops waiting, in updates of the median client.
    """

    present: Sequence[int]
    missing: dict[int, str]
    time: float


def turnout(seed: int, round_index: int, cohort: Sequence[int], wanted: int, faults: FaultsConfig) -> Turnout:
    """Draw what happens to each client of ``cohort``; the first ``wanted`` that finish before the deadline are present.

    Every client's luck in a round is its own: a function of (seed, client, round).
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
