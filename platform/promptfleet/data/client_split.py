"""Train, validation and test part of one client."""

from dataclasses import dataclass, replace

import numpy as np

from promptfleet.errors import ConfigError


@dataclass(frozen=True, eq=False)
class ClientSplit:
    """Sample indices of one client: sorted int64, disjoint, at least one in each part."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray

    def samples(self) -> np.ndarray:
        """Return all samples of the client, sorted."""
        return np.sort(np.concatenate([self.train, self.val, self.test]))


def check_fractions(val_fraction: float, test_fraction: float) -> None:
    """Raise ConfigError if validation and test together leave nothing to train on."""
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
    domains: np.ndarray | None = None,
) -> ClientSplit:
    """Split a client's ``samples`` so that all three parts have its label distribution, as far as counts allow.

    labels, domains ``[all samples]``. Needs at least as many samples as parts, and fractions that sum to less than 1.
    Part sizes are the rounded fractions, at least 1; a fraction of 0 makes that part empty. The training part's count
    of each label is within 1 of its exact share, so a label with a full training sample's worth of data is trained on.
    Within a label, all parts have the same mix of domains, as far as counts allow.
    """
    val_size, test_size = _part_sizes(len(samples), val_fraction, test_fraction)
    label_values, counts = np.unique(labels[samples], return_counts=True)
    held_out = _apportion(counts, val_size + test_size, rng)
    tested = _apportion(held_out, test_size, rng)

    test, val, train = [], [], []
    for label, in_test, in_held_out in zip(label_values, tested, held_out, strict=True):
        shuffled = rng.permutation(samples[labels[samples] == label])
        if domains is not None:
            shuffled = _spread(shuffled, domains[shuffled], rng)
        test.append(shuffled[:in_test])
        val.append(shuffled[in_test:in_held_out])
        train.append(shuffled[in_held_out:])
    return ClientSplit(*(np.sort(np.concatenate(part)) for part in (train, val, test)))


def keep_shots(split: ClientSplit, labels: np.ndarray, shots: int, rng: np.random.Generator) -> ClientSplit:
    """Return the split with at most ``shots`` random training samples of each label; validation and test stay.

    A label with fewer samples keeps them all. With equal generators, fewer shots are among more.
    """
    train = labels[split.train]
    kept = [rng.permutation(split.train[train == label])[:shots] for label in np.unique(train)]
    return replace(split, train=np.sort(np.concatenate(kept)))


def take_public(
    samples: np.ndarray, labels: np.ndarray, fraction: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the samples that the server has, with the label distribution of all, and the rest; both sorted.

    labels ``[all samples]``. The server has the rounded ``fraction``, at least one sample; with 0 none.
    """
    if not fraction:
        return samples[:0], samples
    values, counts = np.unique(labels[samples], return_counts=True)
    wanted = _apportion(counts, max(1, round(fraction * len(samples))), rng)
    taken = [
        rng.permutation(samples[labels[samples] == label])[:count] for label, count in zip(values, wanted, strict=True)
    ]
    public = np.sort(np.concatenate(taken))
    return public, np.setdiff1d(samples, public)


def _part_sizes(samples: int, val_fraction: float, test_fraction: float) -> tuple[int, int]:
    val_size, test_size = (max(1, round(samples * part)) if part else 0 for part in (val_fraction, test_fraction))
    while val_size + test_size >= samples:
        val_size, test_size = (val_size - 1, test_size) if val_size > test_size else (val_size, test_size - 1)
    return val_size, test_size


def _apportion(counts: np.ndarray, total: int, rng: np.random.Generator) -> np.ndarray:
    """Divide ``total`` in proportion to ``counts``, largest remainders first, ties at random."""
    if not total:
        return np.zeros_like(counts)
    share, remainder = np.divmod(counts * total, counts.sum())
    most_owed_first = np.lexsort((rng.random(len(counts)), -remainder))
    share[most_owed_first[: total - share.sum()]] += 1
    return share


def _spread(samples: np.ndarray, domains: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Reorder samples so that any run of them has the domains in nearly the same proportions."""
    place = np.empty(len(samples))
    for domain in np.unique(domains):
        mine = domains == domain
        place[mine] = (np.arange(mine.sum()) + rng.random()) / mine.sum()
    return samples[np.argsort(place, kind="stable")]
