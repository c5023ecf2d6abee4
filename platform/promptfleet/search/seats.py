"""Federations of one trial, which differ in their seed: their folders, and how many run side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from promptfleet.cluster.nodes import Node
from promptfleet.config import FederationConfig
from promptfleet.errors import ResourceError
from promptfleet.federation.resources import Shares, plan_shares


@dataclass(frozen=True)
class Seats:
    """Share of a cluster for a trial: ``fleets`` of these shares, one for each federation, or one for all in turn."""

    shares: Shares
    fleets: int

    def bundles(self) -> list[dict[str, float]]:
        """Return one placement bundle per process: the driver, then each fleet's server and clients."""
        driver, *fleet = self.shares.bundles()
        return [driver, *fleet * self.fleets]

    def first_bundle(self, fleet: int) -> int:
        """Return the place of a fleet's server among ``bundles``."""
        return 1 + fleet * (1 + self.shares.client_actors)


def plan_seats(config: FederationConfig, nodes: Sequence[Node], *, concurrent: int, seeds: int = 1) -> Seats:
    """Return seats for a trial of ``seeds`` federations: side by side where there is room, else one for all.

    Raises ResourceError: ``concurrent`` trials do not even fit with one federation each.
    """
    if seeds > 1:
        try:
            return Seats(plan_shares(config, nodes, concurrent=concurrent * seeds), seeds)
        except ResourceError:
            pass
    return Seats(plan_shares(config, nodes, concurrent=concurrent), 1)


def most_concurrent(config: FederationConfig, nodes: Sequence[Node], *, seeds: int, trials: int) -> int:
    """Return how many trials fill the cluster: each client actor has its threads' CPUs, or its share of a GPU.

    At least 1; at most ``trials``. Raises ResourceError: not even one fits.
    """
    cpus, threads = sum(node.cpus for node in nodes), config.runtime.threads_per_client
    shares = plan_shares(config, nodes)
    if not shares.client_gpu:
        return max(1, min(trials, int(cpus / (shares.client_actors * threads * seeds))))
    fitting = 1
    while fitting < trials:
        try:
            plan_shares(config, nodes, concurrent=(fitting + 1) * seeds)
        except ResourceError:
            break
        fitting += 1
    return fitting


def seeded(config: FederationConfig, seeds: int) -> list[FederationConfig]:
    """Return the federations of a trial: the first has the configuration's own seed, the others those after it."""
    return [config, *(config.model_copy(update={"seed": config.seed + more}) for more in range(1, seeds))]


def seat_folders(folder: Path, seeds: int) -> list[Path]:
    """Return the folders of a trial's federations, the trial's own for the first."""
    return [folder, *(folder / f"seed-{more}" for more in range(1, seeds))]
