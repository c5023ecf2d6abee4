"""Quantity skew: clients differ in their numbers of samples, not in the kinds."""

import numpy as np

from promptfleet.config import PartitionConfig
from promptfleet.data.partitions.dirichlet import MAX_DRAWS
from promptfleet.data.partitions.dirichlet import assign as assign_dirichlet
from promptfleet.data.samples import Samples


def assign(
    samples: Samples,
    *,
    clients: int,
    settings: PartitionConfig,
    rng: np.random.Generator,
    draws: int = MAX_DRAWS,
) -> list[np.ndarray]:
    """Deal out all samples at random, client sizes being proportions drawn from Dirichlet(alpha).

    Draws again as ``dirichlet`` does until every client has ``settings.min_samples``, and raises as it does.
    Source: Li et al., arXiv:2102.02079, section 3 (quantity skew).
    """
    all_alike = Samples(np.zeros_like(samples.labels), ("any",))
    return assign_dirichlet(all_alike, clients=clients, settings=settings, rng=rng, draws=draws)
