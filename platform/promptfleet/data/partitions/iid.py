"""Every client draws from the same distribution."""

import numpy as np

from promptfleet.config import PartitionConfig
from promptfleet.data.samples import Samples


def assign(samples: Samples, *, clients: int, settings: PartitionConfig, rng: np.random.Generator) -> list[np.ndarray]:
    """Deal out all samples at random; client sizes differ by at most 1."""
    return np.array_split(rng.permutation(len(samples)), clients)
