"""Outliers: prompts so far from all others that they are not given out as experts."""

from dataclasses import dataclass

from torch import Tensor

from promptfleet.methods.parts.averaging import median


@dataclass(frozen=True)
class Outliers:
    """Ids of clients by their prompt's distance from the median prompt, all above ``limit``."""

    distances: dict[int, float]
    limit: float

    def reasons(self) -> dict[int, str]:
        """Say of each client why others do not get its prompt."""
        return {
            client: f"its prompt is {distance:.3g} from the median prompt, at most {self.limit:.3g} is usual"
            for client, distance in self.distances.items()
        }


def find_outliers(contexts: Tensor, rounds: Tensor, tolerance: float) -> Outliers:
    """Return entries of the pool that are unusually far from its middle.

    contexts ``[clients, ...]``; rounds ``[clients]`` is the round of each upload, 0 for none, and only clients with one
    count. The middle is their coordinate-wise median, distances from it are Euclidean, and the limit is the median
    distance plus ``tolerance`` times the median absolute deviation from that: less than half of the pool, at any
    distance, cannot move it much. Never more than half are outliers.
    """
    trained = rounds.nonzero().flatten()
    if len(trained) == 0:
        return Outliers({}, float("inf"))
    prompts = contexts[trained].double().flatten(1)
    away = (prompts - median(prompts)).norm(dim=1)
    usual = median(away)
    limit = float(usual + tolerance * median((away - usual).abs()))
    far = {int(client): float(one) for client, one in zip(trained, away, strict=True) if one > limit}
    return Outliers(far, limit)
