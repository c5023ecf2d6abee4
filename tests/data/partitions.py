"""Made-up samples, and their partition in one call."""

import numpy as np

from promptfleet.config import PartitionConfig
from promptfleet.data.partition import Partition, make_partition
from promptfleet.data.samples import Samples


def made_up_labels(classes: int, per_class: int) -> np.ndarray:
    return np.tile(np.arange(classes), per_class)


def made_up_samples(labels, domains=None, official=None) -> Samples:
    labels = np.asarray(labels)
    names = tuple(f"class {label}" for label in range(int(labels.max()) + 1))
    domain_names = () if domains is None else tuple(f"domain {d}" for d in range(int(np.max(domains)) + 1))
    return Samples(labels, names, domains, domain_names, official)


def partition(samples, clients: int, seed: int = 0, **config) -> Partition:
    if not isinstance(samples, Samples):
        samples = made_up_samples(samples)
    return make_partition(samples, clients=clients, settings=PartitionConfig(**config), seed=seed)


def owned(made: Partition) -> list[list[int]]:
    return [split.samples().tolist() for split in made.clients]


def label_counts(made: Partition, labels: np.ndarray, classes: int, part: str | None = None) -> np.ndarray:
    """``[clients, classes]``, of one part or of all."""
    chosen = [split.samples() if part is None else getattr(split, part) for split in made.clients]
    return np.stack([np.bincount(labels[indices], minlength=classes) for indices in chosen])
