"""Trial: a whole federation, of which Ray Tune runs one communication round per step."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import ray
from ray import ObjectRef, tune

from promptfleet.config import FederationConfig
from promptfleet.federation.checkpoints.checkpoint import DamagedCheckpoint
from promptfleet.federation.checkpoints.folder import FederationFolder
from promptfleet.federation.drive import Checkpoints, RequireAccepted, rounds
from promptfleet.federation.on_ray.fleet import RayFleet
from promptfleet.federation.reports import RoundReport
from promptfleet.federation.resources import Shares
from promptfleet.federation.rounds import Federation
from promptfleet.federation.settings import federation_config
from promptfleet.search.quantities import quantities_of
from promptfleet.search.stage import FEDERATION, FOLDER, SETTLED

logger = logging.getLogger(__name__)

QUANTITIES = "quantities"
OBJECTIVE = "val_accuracy"  # of the honest clients, if some attack


class FederationTrial(tune.Trainable):
    """Owner of a fleet, which it keeps for the next trial, and of one federation at a time.

    The federation is saved after each round in the trial's own folder, before the study has the round's report, and
    resumes from there after the death of any process. Rounds in the folder that the study has not settled are reported
    again instead of being run. To prune the trial, Tune's scheduler asks the study and steps no further.
    """

    def setup(
        self, config: dict[str, Any], frozen: list[ObjectRef], shares: Callable[[FederationConfig], Shares]
    ) -> None:
        self._shares = shares
        (self._frozen_ref,) = frozen  # in a list, since Tune would put the object itself in its place
        self._prepared = ray.get(self._frozen_ref).prepared()
        self._fleet: RayFleet | None = None
        self._stored: FederationFolder | None = None
        self._begin(config)

    def step(self) -> Mapping[str, Any]:
        report, total = next(self._rounds), self._config.rounds
        after = {QUANTITIES: quantities_of(self._federation.reports[: report.round])}
        return _metrics(report) | {"report": asdict(report), "rounds": total, "done": report.round == total} | after

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def cleanup(self) -> None:
        if self._stored is not None:
            self._stored.close()
        if self._fleet is not None:
            self._fleet.close()

    def _begin(self, values: Mapping[str, Any]) -> None:
        self._config = config = federation_config(values[FEDERATION])
        shares = self._shares(config)
        if self._fleet is not None and self._fleet.shares != shares:
            self._fleet.close()
            self._fleet = None
        if self._fleet is None:
            timeout = config.runtime.start_timeout_s
            self._fleet = RayFleet(self._frozen_ref, shares, start_timeout_s=timeout, own_group=False)
        folder = config.storage.folder / values[FOLDER]
        federation = Federation(config, self._prepared, self._fleet, folder)
        if self._stored is not None:
            self._stored.close()
        self._stored = FederationFolder(folder, federation)
        try:
            done = self._stored.restore()
        except DamagedCheckpoint as error:
            logger.warning("%s; the trial starts again", error)
            done = 0
        after = [Checkpoints(self._stored, config.rounds, wait=True), RequireAccepted(federation)]
        self._federation = federation
        self._rounds = rounds(federation, self._stored, after, reported=min(values[SETTLED], done))


def _metrics(report: RoundReport) -> dict[str, Any]:
    return {"round": report.round, OBJECTIVE: report.honest_val_accuracy, "test_accuracy": report.test_accuracy}
