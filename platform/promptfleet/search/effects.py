"""Keys of a search file that could change nothing: a search that ran without what they ask for would surprise."""

import logging
from typing import TYPE_CHECKING

from promptfleet.config import FederationConfig
from promptfleet.errors import ConfigError
from promptfleet.federation.conditions.adversaries import adversaries
from promptfleet.federation.evaluation.schedule import evaluated_clients
from promptfleet.search.pruners import LEAST_PAIRS
from promptfleet.search.samplers import GRID
from promptfleet.search.seats import seeded

if TYPE_CHECKING:
    from promptfleet.search.spec import SweepSettings, SweepSpec

logger = logging.getLogger(__name__)

_OF_PRUNERS = {"patience": "patient", "reduction_factor": "asha"}  # keys that one pruner alone has
_NOT_OF_GRIDS = ("grace_rounds", "patience", "reduction_factor", "startup_trials", "defaults_first")


def check_effects(spec: "SweepSpec", *, source: str, changed: bool = False) -> None:
    """Raise ConfigError if a key that differs from its default can have no effect in this search.

    It is for new searches: one that was begun with such a key continues as it is. ``changed``: the federation has
    values from elsewhere than ``source``, such as fewer rounds for a quick try; a pruner that these leave without
    effect is logged.
    """
    settings = spec.settings
    given = settings.model_dump(exclude_defaults=True)
    if "start_from_ignores" in given and not settings.start_from:
        raise ConfigError(f"{source}: start_from_ignores: goes with start_from, which is missing")
    if settings.sampler == GRID:
        stops = () if settings.pruner == "none" else ("pruner",)
        for key in filter(given.__contains__, (*stops, *_NOT_OF_GRIDS)):
            raise ConfigError(f"{source}: {key}: a grid runs each of its points in full; leave it out")
    elif settings.pruner != "none":
        for key, pruner in _OF_PRUNERS.items():
            if key in given and pruner != settings.pruner:
                raise ConfigError(f"{source}: {key}: belongs to pruner: {pruner}, but pruner is {settings.pruner}")
        if "pruner" in given or "grace_rounds" in given:
            reason = _nothing_stops(settings, spec.base_config())
            if reason and not changed:
                raise ConfigError(f"{source}: {reason}")
            if reason:
                logger.warning("no trial is stopped early: %s: %s", source, reason)


def _nothing_stops(settings: "SweepSettings", config: FederationConfig) -> str | None:
    """Return the reason why the pruner can stop no trial: its first decision would come after the last one there is."""
    every, rounds = config.evaluation.every, config.rounds
    last = (rounds - 1) // every * every  # the last decision
    if last == 0:
        return (
            f"pruner: {settings.pruner} can stop no trial early, since only the last of its {rounds} rounds is "
            "evaluated; take pruner: none"
        )
    if settings.grace_rounds > last:
        return (
            f"grace_rounds: got {settings.grace_rounds}, should be at most {last}, the last round after which a trial "
            f"of {rounds} rounds can be stopped early"
        )
    most = last // every - 2
    if settings.pruner == "patient" and settings.patience > most:
        fitting = f"should be at most {most}" if most >= 0 else "none is short enough; take pruner: median"
        return f"patience: got {settings.patience} for {rounds} rounds, {fitting}"
    if settings.pruner == "wilcoxon":
        federations = seeded(config, settings.seeds_per_trial)
        pairs = sum(len({*evaluated_clients(one, last)} - adversaries(one)) for one in federations)
        if pairs < LEAST_PAIRS:
            return (
                f"pruner: wilcoxon needs {LEAST_PAIRS} clients to compare, and a trial has {pairs}; raise "
                "seeds_per_trial, or take median"
            )
    return None
