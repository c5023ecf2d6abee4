"""Label shift as in the pFedMoAP paper: every class belongs to one client."""

import numpy as np

from promptfleet.config import PartitionConfig
from promptfleet.data.samples import Samples
from promptfleet.errors import ConfigError


def assign(samples: Samples, *, clients: int, settings: PartitionConfig, rng: np.random.Generator) -> list[np.ndarray]:
    """Deal the classes in random order, round(classes / clients) to a client and the rest to the last one.

    Halves are rounded to even numbers. Every sample is used.

    Raises:
        ConfigError: if some client would be left without a class.
    Source: Luo et al., arXiv:2410.10114, and its published code. Differs: there the order of the classes is the same
        for all seeds.
    """
    classes = samples.classes
    if not _goes_round(classes, clients):
        fitting = max(fewer for fewer in range(1, clients) if _goes_round(classes, fewer))
        raise ConfigError(
            f"partition.kind=disjoint: {classes} classes do not go round clients={clients} by "
            f"round({classes} / {clients}) = {round(classes / clients)}; set clients to {fitting}, or use "
            f"partition.kind=pathological"
        )
    per_client = round(classes / clients)
    dealt = np.split(rng.permutation(classes), per_client * np.arange(1, clients))
    return [np.flatnonzero(np.isin(samples.labels, mine)) for mine in dealt]


def _goes_round(classes: int, clients: int) -> bool:
    per_client = round(classes / clients)
    return per_client > 0 and per_client * (clients - 1) < classes
