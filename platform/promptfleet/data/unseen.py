"""Samples that no client has, since the federation is tested on what it has not seen: those of new classes."""

import math
from dataclasses import replace

import numpy as np

from promptfleet.config import PartitionConfig
from promptfleet.data.dataset import Part
from promptfleet.data.samples import Samples
from promptfleet.errors import ConfigError, DataError


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
    """Return the samples that clients may have, and their indices. Raises ConfigError, see ``base_classes``."""
    base = base_classes(settings, samples.classes)
    seen = np.flatnonzero(samples.labels < base)
    return replace(samples.take(seen), class_names=samples.class_names[:base]), seen


def new_samples(samples: Samples, settings: PartitionConfig) -> np.ndarray:
    """Return the test samples of new classes: of the published test part, or all if the dataset has none.

    Raises:
        ConfigError: see ``base_classes``.
        DataError: the published test part has none of them.
    """
    is_new = samples.labels >= base_classes(settings, samples.classes)
    if samples.official is not None and (samples.official == Part.TEST).any():
        is_tested = is_new & (samples.official == Part.TEST)
        if is_new.any() and not is_tested.any():
            raise DataError(
                f"partition.new_classes={settings.new_classes:g}: the dataset's test part has no sample of a new "
                f"class; leave it out"
            )
        is_new = is_tested
    return np.flatnonzero(is_new)
