"""Numbers of a partition for tables, figures and results."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from promptfleet.data.partition import Partition
from promptfleet.data.samples import Samples


@dataclass(frozen=True)
class PartitionCounts:
    """Numbers of samples, all three parts together unless said otherwise; plain ints and text.

    part_sizes ``[clients][3]`` (train, val, test), label_counts ``[clients][classes]``, domain_counts
    ``[clients][domains]``, domain_label_counts ``[domains][classes]``; the last two are empty without domains.
    """

    class_names: Sequence[str]
    domain_names: Sequence[str]
    part_sizes: Sequence[Sequence[int]]
    label_counts: Sequence[Sequence[int]]
    domain_counts: Sequence[Sequence[int]]
    domain_label_counts: Sequence[Sequence[int]]


def count_partition(partition: Partition, samples: Samples) -> PartitionCounts:
    """Count the samples of each client, class and domain."""
    owned = [split.samples() for split in partition.clients]
    classes, domains = samples.classes, len(samples.domain_names)
    groups = np.bincount(samples.groups[np.concatenate(owned)], minlength=classes * max(1, domains))
    return PartitionCounts(
        class_names=list(samples.class_names),
        domain_names=list(samples.domain_names),
        part_sizes=[[len(split.train), len(split.val), len(split.test)] for split in partition.clients],
        label_counts=[_counts(samples.labels[mine], classes) for mine in owned],
        domain_counts=[_counts(samples.domains[mine], domains) if domains else [] for mine in owned],
        domain_label_counts=groups.reshape(classes, domains).T.tolist() if domains else [],
    )


def _counts(values: np.ndarray, size: int) -> list[int]:
    return np.bincount(values, minlength=size).tolist()
