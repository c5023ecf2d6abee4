"""Test of the best method against the others on the same clients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from promptfleet.comparison.over_seeds import OverSeeds
from promptfleet.search.paired import holm, paired_test


@dataclass(frozen=True)
class Difference:
    """Distance of a method from the best one: ``gap`` is that of their mean accuracies over clients.

    ``p`` is of the paired test over ``pairs`` of (seed, client), ``p_adjusted`` the same after Holm's correction for
    the number of methods; ``wins`` and ``losses`` count the clients for which the best method is better or worse.
    """

    method: str
    best: str
    gap: OverSeeds
    pairs: int
    wins: int
    losses: int
    p: float
    p_adjusted: float


def differences_to_best(accuracy: Mapping[str, Mapping[int, Sequence[float]]]) -> list[Difference]:
    """Compare every method with the one of the highest mean, in the given order; the best itself is left out.

    accuracy: by method and seed, each client's test accuracy, in the order of client ids.

    The test is Wilcoxon's signed-rank test, two-sided, over all pairs (seed, client) that both methods have; it is
    exact for few pairs, see ``paired_test``. It assumes that the pairs are independent and their differences symmetric
    around their median. Pairs of different seeds are (other partitions, other initial values); clients of one seed
    share a server, so their differences lean the same way, and a p-value is rather too small than too large: read it
    together with the mean and the standard deviation over seeds. The best is chosen by the same figures, which leans
    the same way. Source: Demsar, JMLR 7 (2006); Holm, Scand. J. Statist. 6 (1979).
    """
    means = {method: np.mean([np.mean(clients) for clients in seeds.values()]) for method, seeds in accuracy.items()}
    best = max(means, key=lambda method: means[method])
    found = []
    for method in accuracy:
        seeds = [seed for seed in accuracy[method] if seed in accuracy[best]]
        if method == best or not seeds:
            continue
        per_seed = [np.subtract(accuracy[best][seed], accuracy[method][seed]) for seed in seeds]
        gaps, pairs = [float(np.mean(gap)) for gap in per_seed], np.concatenate(per_seed)
        found.append((method, gaps, pairs, paired_test(pairs)))
    adjusted = holm([p for *_, p in found])
    return [
        Difference(
            method=method,
            best=best,
            gap=OverSeeds.of(gaps),
            pairs=len(pairs),
            wins=int((pairs > 0).sum()),
            losses=int((pairs < 0).sum()),
            p=p,
            p_adjusted=p_holm,
        )
        for (method, gaps, pairs, p), p_holm in zip(found, adjusted, strict=True)
    ]
