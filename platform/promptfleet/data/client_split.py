"""A client's own train, validation and test part."""

from dataclasses import dataclass

import numpy as np

from promptfleet.errors import ConfigError

MIN_SAMPLES = 3  # one to train on, one to validate on, one to test on


@dataclass(frozen=True, eq=False)
class ClientSplit:
    """Sample indices of one client: sorted int64, disjoint, at least one in each part."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray

    def samples(self) -> np.ndarray:
        """Everything the client owns, sorted."""
        return np.sort(np.concatenate([self.train, self.val, self.test]))


def check_fractions(val_fraction: float, test_fraction: float) -> None:
    """Raise ConfigError when validation and test together leave nothing to train on."""
    if val_fraction + test_fraction >= 1:
        raise ConfigError(
            f"partition.val_fraction={val_fraction} and partition.test_fraction={test_fraction} leave nothing to train "
            f"on; make their sum less than 1"
        )


def split_client(
    samples: np.ndarray,
    labels: np.ndarray,
    *,
    val_fraction: float,
    test_fraction: float,
    rng: np.random.Generator,
) -> ClientSplit:
    """Split a client's ``samples`` so that all three parts have its label distribution, as far as counts allow.

    labels ``[all samples]``. Needs at least MIN_SAMPLES samples and fractions that sum to less than 1. Part sizes are
    the rounded fractions, at least 1. The training part's count of each label is within 1 of its exact share, so a
    label with a full training sample's worth of data is trained on.
    """
    val_size, test_size = _part_sizes(len(samples), val_fraction, test_fraction)
    label_values, counts = np.unique(labels[samples], return_counts=True)
    held_out = _apportion(counts, val_size + test_size, rng)
    tested = _apportion(held_out, test_size, rng)

    test, val, train = [], [], []
    for label, in_test, in_held_out in zip(label_values, tested, held_out, strict=True):
        shuffled = rng.permutation(samples[labels[samples] == label])
        test.append(shuffled[:in_test])
        val.append(shuffled[in_test:in_held_out])
        train.append(shuffled[in_held_out:])
    return ClientSplit(*(np.sort(np.concatenate(part)) for part in (train, val, test)))


def _part_sizes(samples: int, val_fraction: float, test_fraction: float) -> tuple[int, int]:
    val_size = max(1, round(samples * val_fraction))
    test_size = max(1, round(samples * test_fraction))
    while val_size + test_size >= samples:
        val_size, test_size = (val_size - 1, test_size) if val_size > test_size else (val_size, test_size - 1)
    return val_size, test_size


def _apportion(counts: np.ndarray, total: int, rng: np.random.Generator) -> np.ndarray:
    """Share ``total`` out in proportion to ``counts``, largest remainders first, ties at random."""
    share, remainder = np.divmod(counts * total, counts.sum())
    most_owed_first = np.lexsort((rng.random(len(counts)), -remainder))
    share[most_owed_first[: total - share.sum()]] += 1
    return share
