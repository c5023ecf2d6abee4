"""Trial: a whole federation, of which Ray Tune runs one communication round per step."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray
from ray import ObjectRef, tune

from promptfleet.config import FederationConfig
from promptfleet.federation.checkpoints.files import DamagedCheckpoint
from promptfleet.federation.checkpoints.folder import FederationFolder
from promptfleet.federation.conditions.adversaries import adversaries
from promptfleet.federation.drive import Checkpoints, RequireAccepted, rounds
from promptfleet.federation.on_ray.fleet import RayFleet
from promptfleet.federation.prepare import Prepared
from promptfleet.federation.reports import RoundReport
from promptfleet.federation.rounds import Federation
from promptfleet.search.objective import objective_of, parse_objective
from promptfleet.search.quantities import RoundFigures
from promptfleet.search.seats import Seats, seat_folders, seeded
from promptfleet.search.stage import FEDERATION, FOLDER, JUDGED_BY, SEEDS, SETTLED

logger = logging.getLogger(__name__)

FIGURES = "figures"
OBJECTIVE = "val_accuracy"  # the objective, of the honest clients if some attack
Plan = Callable[[FederationConfig, int], Seats]  # for a configuration and a number of seeds


class Seat:
    """One federation of a trial on a fleet, resumed from its folder."""

    def __init__(self, config: FederationConfig, prepared: Prepared, fleet: RayFleet, folder: Path):
        self.federation = Federation(config, prepared, fleet, folder)
        self._stored = FederationFolder(folder, self.federation)
        try:
            self.done = self._stored.restore()
        except DamagedCheckpoint as error:
            logger.warning("%s; the trial starts again", error)
            self.done = 0

    def rounds_after(self, reported: int) -> Iterator[Sequence[RoundReport]]:
        """Run round after round, or report those that are done, and yield the reports of all rounds up to it."""
        after = [Checkpoints(self._stored, self.federation.config.rounds, wait=True), RequireAccepted(self.federation)]
        for report in rounds(self.federation, self._stored, after, reported=reported):
            yield self.federation.reports[: report.round]

    def close(self) -> None:
        self._stored.close()


class FederationTrial(tune.Trainable):
    """Owner of its fleets, which it keeps for the next trial, and of the federations of one trial at a time.

    A trial has one federation, or several that differ in their seed: each on a fleet of its own, or all on one fleet in
    turn, round by round. Each federation is saved after each round in its own folder, before the study has the round's
    report, and resumes from there after the death of any process. Rounds in the folder that the study has not settled
    are reported again instead of being run. To prune the trial, Tune's scheduler asks the study and steps no further.
    """

    def setup(self, config: dict[str, Any], frozen: list[ObjectRef], plan: Plan) -> None:
        self._plan = plan
        (self._frozen_ref,) = frozen  # in a list, since Tune would put the object itself in its place
        self._prepared = ray.get(self._frozen_ref).prepared()
        self._seats_planned: Seats | None = None
        self._fleets: list[RayFleet] = []
        self._open: list[Seat] = []
        self._begin(config)

    def step(self) -> Mapping[str, Any]:
        federations = next(self._rounds)
        last, total = [reports[-1] for reports in federations], self._config.rounds
        return {
            OBJECTIVE: objective_of(self._objective, last, self._adversaries),
            "round": last[0].round,
            "report": last[0],  # no mapping, like the figures: Tune flattens one, and keeps each number's history
            FIGURES: RoundFigures.of(federations, self._objective, self._adversaries),
            "rounds": total,
            "done": last[0].round == total,
        }

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def cleanup(self) -> None:
        self._close_seats()
        for fleet in self._fleets:
            fleet.close()

    def _begin(self, values: Mapping[str, Any]) -> None:
        self._config = config = values[FEDERATION]
        self._close_seats()
        self._take(self._plan(config, values[SEEDS]))
        configs = seeded(config, values[SEEDS])
        self._objective = parse_objective(values[JUDGED_BY], source="trial")
        self._adversaries = [adversaries(one) for one in configs]
        seats = list(zip(configs, seat_folders(config.storage.folder / values[FOLDER], values[SEEDS]), strict=True))
        if len(self._fleets) == len(seats):
            self._open = [
                Seat(one, self._prepared, fleet, folder)
                for (one, folder), fleet in zip(seats, self._fleets, strict=True)
            ]
            self._rounds = _side_by_side(self._open, min(values[SETTLED], *(seat.done for seat in self._open)))
        else:
            self._rounds = self._in_turn(seats, values[SETTLED])

    def _in_turn(
        self, seats: Sequence[tuple[FederationConfig, Path]], settled: int
    ) -> Iterator[list[Sequence[RoundReport]]]:
        """Run a round of each federation on the only fleet, which takes it from its folder, and yield their reports."""
        done = []
        for config, folder in seats if settled else ():
            self._open = [Seat(config, self._prepared, self._fleets[0], folder)]
            done.append(self._open[0].done)
            self._close_seats()
        for reported in range(min([settled, *done]), self._config.rounds):
            federations = []
            for config, folder in seats:
                self._open = [Seat(config, self._prepared, self._fleets[0], folder)]
                federations.append(next(self._open[0].rounds_after(reported)))
                self._close_seats()
            yield federations

    def _take(self, seats: Seats) -> None:
        """Start the fleets that are planned, unless they are those of the trial before."""
        if seats == self._seats_planned:
            return
        for fleet in self._fleets:
            fleet.close()
        timeout = self._config.runtime.start_timeout_s
        self._seats_planned, self._fleets = None, []
        for index in range(seats.fleets):
            where = {"own_group": False, "first_bundle": seats.first_bundle(index)}
            self._fleets.append(RayFleet(self._frozen_ref, seats.shares, start_timeout_s=timeout, **where))
        self._seats_planned = seats

    def _close_seats(self) -> None:
        for seat in self._open:
            seat.close()
        self._open = []


def _side_by_side(seats: Sequence[Seat], reported: int) -> Iterator[list[Sequence[RoundReport]]]:
    """Run a round of each federation at the same time, and yield the reports of each."""
    running = [seat.rounds_after(reported) for seat in seats]
    if len(running) == 1:
        yield from ([reports] for reports in running[0])
        return
    with ThreadPoolExecutor(len(running)) as threads:
        while True:
            round_of_each = list(threads.map(lambda one: next(one, None), running))
            if None in round_of_each:
                return
            yield round_of_each
