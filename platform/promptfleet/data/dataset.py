"""Labelled image dataset: labels known at once, images read one at a time on request."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from PIL import Image

from promptfleet.errors import DataError


class Part(IntEnum):
    """The part that a dataset's original split gives a sample."""

    TRAIN = 0
    VAL = 1
    TEST = 2


@dataclass(frozen=True, eq=False)
class Dataset:
    """One dataset in any storage format. Label ``k`` means ``class_names[k]``.

    labels ``[samples]`` int64. ``read_image(i)`` gives sample ``i``; it may touch the disk. Each of ``templates`` is a
    zero-shot prompt with one ``{}`` for the class name. ``fingerprint`` is a sha256 over the content, so that features
    of one version are never taken for another's. ``domains`` ``[samples]`` int64 index ``domain_names``; None where
    the dataset has no domains. ``official`` ``[samples]`` int64 is the ``Part`` that the published split gives
    each sample; None where there is no such split.

    Raises:
        DataError: if labels, domains, parts, their names and templates do not fit each other.
    """

    name: str
    class_names: tuple[str, ...]
    labels: np.ndarray
    read_image: Callable[[int], Image.Image]
    templates: tuple[str, ...]
    fingerprint: str
    domains: np.ndarray | None = None
    domain_names: tuple[str, ...] = ()
    official: np.ndarray | None = None

    def __post_init__(self) -> None:
        self._check("label", self.labels, self.class_names)
        if self.domains is not None:
            self._check("domain", self.domains, self.domain_names)
        if self.official is not None:
            self._check("part", self.official, tuple(part.name.lower() for part in Part))
        for template in self.templates:
            if template.count("{}") != 1:
                raise DataError(f"dataset {self.name}: template {template!r} needs exactly one {{}} for the class name")

    def __len__(self) -> int:
        return len(self.labels)

    def _check(self, what: str, values: np.ndarray, names: tuple[str, ...]) -> None:
        if values.ndim != 1 or values.dtype != np.int64:
            raise DataError(
                f"dataset {self.name}: {what}s are {values.dtype} {values.shape}, should be int64 [samples]"
            )
        if len(values) and not 0 <= values.min() <= values.max() < len(names):
            found = f"{values.min()}..{values.max()}"
            raise DataError(f"dataset {self.name}: {what}s span {found} but there are {len(names)} {what} names")
        if len(values) != len(self.labels):
            raise DataError(f"dataset {self.name}: {len(self.labels)} labels but {len(values)} {what}s")
