"""Budget of a search: the total that its trials may use. Pauses between two runs of a search use nothing."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial
from pydantic import Field

from promptfleet.config import Section
from promptfleet.config_types import Seconds
from promptfleet.errors import ConfigError, did_you_mean

QUANTITIES_ATTR = "quantities"  # of a trial in the study
SECONDS_ATTR = "seconds"  # of the study
FROM_REPORTS = ("client_seconds", "bytes")


class Budget(Section):
    """Total that all trials of a search may use; no trial starts after that, and running ones end properly."""

    trials: int | None = Field(None, ge=1, description="number of trials; the same as `trials`")
    seconds: Seconds | None = Field(None, gt=0, description="seconds that the search runs; pauses do not count")
    client_seconds: Seconds | None = Field(None, gt=0, description="seconds that clients train, all of them together")
    bytes: int | None = Field(None, ge=1, description="bytes that clients upload and download")
    rounds: int | None = Field(None, ge=1, description="communication rounds, those of each seed counted")

    @property
    def is_of_reports(self) -> bool:
        """True if it limits something that only the reports of rounds have."""
        return any(getattr(self, name) is not None for name in FROM_REPORTS)

    def used_up(self, used: Mapping[str, float]) -> str | None:
        """Return the first quantity that is used up, None if there is some of each left."""
        limits = {name: limit for name, limit in self.model_dump().items() if limit is not None}
        return next((name for name, amount in used.items() if amount >= limits.get(name, math.inf)), None)


def check_parts(parts: Mapping[str, Any]) -> None:
    """Raise ConfigError if ``--budget`` names what is no part of a budget, or the trials, which have an option."""
    known = [name for name in Budget.model_fields if name != "trials"]
    for name in parts:
        if name == "trials":
            raise ConfigError(f"--budget trials: give --trials {parts[name]}")
        if name not in known:
            hint = did_you_mean(name, known) or f"there are: {', '.join(known)}"
            raise ConfigError(f"--budget {name}: is no part of a budget; {hint}")


def used_by(trials: Sequence[FrozenTrial], seconds: float, *, seeds: int = 1) -> dict[str, float]:
    """Return the total use of a study's trials, by the keys of ``Budget``, without ``trials``."""
    rounds = sum(max(trial.intermediate_values, default=0) for trial in trials)
    from_reports = {name: sum(_quantity(trial, name) for trial in trials) for name in FROM_REPORTS}
    return {"seconds": seconds, **from_reports, "rounds": rounds * seeds}


def _quantity(trial: FrozenTrial, name: str) -> Any:
    return trial.user_attrs.get(QUANTITIES_ATTR, {}).get(name, 0)
