"""Label shift at its hardest: each client sees a few classes and none of the others."""

import numpy as np

from promptfleet.config import PartitionConfig
from promptfleet.data.samples import Samples
from promptfleet.errors import ConfigError, DataError


def assign(samples: Samples, *, clients: int, settings: PartitionConfig, rng: np.random.Generator) -> list[np.ndarray]:
    """Give each client exactly ``settings.classes_per_client`` classes; a class is shared equally by its clients.

    Numbers of clients per class differ by at most 1. Samples of a class that no client sees, which happens only when
    ``clients * classes_per_client`` is less than the number of classes, are left unused.

    Raises:
        ConfigError: if there are fewer classes than ``classes_per_client``.
        DataError: if a class has fewer samples than clients that share it.
    Source: McMahan et al., arXiv:1602.05629, section 3. Differs: they deal shards of the sorted samples, which lets a
        client draw one class twice; here classes are dealt, so each client has exactly the given number.
    """
    labels, classes = samples.labels, samples.classes
    if settings.classes_per_client > classes:
        raise ConfigError(
            f"partition.classes_per_client={settings.classes_per_client}: the dataset has {classes} classes; "
            f"set it to {classes} or less"
        )
    sees = _deal_classes(classes, clients, settings.classes_per_client, rng)
    owned: list[list[np.ndarray]] = [[] for _ in range(clients)]
    for label in range(classes):
        of_label = rng.permutation(np.flatnonzero(labels == label))
        sharing = rng.permutation(np.flatnonzero(sees[:, label]))
        if len(of_label) < len(sharing):
            raise DataError(
                f"partition.classes_per_client={settings.classes_per_client}: class {samples.class_names[label]!r} has "
                f"{len(of_label)} samples for the {len(sharing)} clients that share it"
            )
        if len(sharing):
            for client, share in zip(sharing, np.array_split(of_label, len(sharing)), strict=True):
                owned[client].append(share)
    return [np.concatenate(shares) for shares in owned]


def _deal_classes(classes: int, clients: int, classes_per_client: int, rng: np.random.Generator) -> np.ndarray:
    """Deal each client the classes dealt least so far, ties at random: bool ``[clients, classes]``."""
    sees = np.zeros((clients, classes), dtype=bool)
    for client in range(clients):
        least_dealt_first = np.lexsort((rng.random(classes), sees.sum(axis=0)))
        sees[client, least_dealt_first[:classes_per_client]] = True
    return sees
