"""New classes, a domain and clients that a federation does not train on, since it is tested on what it has not seen."""

import math
from dataclasses import replace

import numpy as np

from promptfleet.config import PartitionConfig, unknown_name
from promptfleet.data.dataset import Part
from promptfleet.data.samples import Samples
from promptfleet.errors import ConfigError, DataError
from promptfleet.seeding import stream


def base_classes(settings: PartitionConfig, classes: int) -> int:
    """Return the number of base classes, which are the first by label id; without new classes it is all.

    Raises ConfigError: fewer than two base or two new classes.
    """
    if not settings.new_classes:
        return classes
    base = math.ceil(round(classes * (1 - settings.new_classes), 9))
    if min(base, classes - base) < 2:
        fix = "use 0.5" if classes >= 4 else "take a dataset with four classes or more"
        raise ConfigError(
            f"partition.new_classes={settings.new_classes:g}: of {classes} classes that makes {base} base and "
            f"{classes - base} new ones, each should be at least two; {fix}"
        )
    return base


def seen_samples(samples: Samples, settings: PartitionConfig) -> tuple[Samples, np.ndarray]:
    """Return the samples that clients may have, and their indices; classes and domains are those that are left.

    Raises ConfigError, see ``base_classes`` and ``held_out_domain``.
    """
    base, domain = base_classes(settings, samples.classes), held_out_domain(settings, samples)
    if domain is None:
        seen = np.flatnonzero(samples.labels < base)
        return replace(samples.take(seen), class_names=samples.class_names[:base]), seen
    seen = np.flatnonzero((samples.labels < base) & (samples.domains != domain))
    left, names = samples.take(seen), samples.domain_names
    return replace(
        left,
        class_names=samples.class_names[:base],
        domains=left.domains - (left.domains > domain),
        domain_names=names[:domain] + names[domain + 1 :],
    ), seen


def held_out_domain(settings: PartitionConfig, samples: Samples) -> int | None:
    """Return the number of the domain that no client has, None without one.

    Raises ConfigError: the dataset does not have it, or no other one.
    """
    name, names = settings.held_out_domain, samples.domain_names
    if name is None:
        return None
    if not names:
        raise ConfigError(f"partition.held_out_domain={name}: the dataset has no domains; leave it out")
    if name not in names:
        raise ConfigError(f"partition.held_out_domain: {unknown_name('domain', name, names)}")
    if len(names) == 1:
        raise ConfigError(f"partition.held_out_domain={name}: it is the dataset's only domain; leave it out")
    return names.index(name)


def unseen_domain(samples: Samples, settings: PartitionConfig) -> np.ndarray:
    """Return all samples of the held-out domain that are of base classes; none without such a domain."""
    domain = held_out_domain(settings, samples)
    if domain is None:
        return np.empty(0, dtype=np.int64)
    found = np.flatnonzero((samples.domains == domain) & (samples.labels < base_classes(settings, samples.classes)))
    if not len(found):
        raise DataError(f"partition.held_out_domain={settings.held_out_domain}: the domain has no samples to test on")
    return found


def new_samples(samples: Samples, settings: PartitionConfig) -> np.ndarray:
    """Return the test samples of new classes: of the published test part, or all if the dataset has none.

    Raises:
        ConfigError: see ``base_classes``.
        DataError: the published test part has none of them.
    """
    is_new = samples.labels >= base_classes(settings, samples.classes)
    if (domain := held_out_domain(settings, samples)) is not None:
        is_new &= samples.domains != domain
    if samples.official is not None and (samples.official == Part.TEST).any():
        is_tested = is_new & (samples.official == Part.TEST)
        if is_new.any() and not is_tested.any():
            raise DataError(
                f"partition.new_classes={settings.new_classes:g}: the dataset's test part has no sample of a new "
                f"class; leave it out"
            )
        is_new = is_tested
    return np.flatnonzero(is_new)


def held_out_clients(settings: PartitionConfig, clients: int, seed: int) -> tuple[int, ...]:
    """Return the ids of the clients that never train, ascending; the seed draws them once."""
    count = settings.held_out_of(clients)
    return tuple(sorted(stream(seed, "held out clients").choice(clients, size=count, replace=False).tolist()))
