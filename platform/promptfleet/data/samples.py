"""Labels of all samples, with their domains and published parts if there are any: the basis of a partition."""

from dataclasses import dataclass

import numpy as np

from promptfleet.data.dataset import Dataset
from promptfleet.data.feature_store import NONE, FeatureStore


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples of a dataset: sample ``i`` has label ``labels[i]``, that is ``class_names[labels[i]]``.

    All arrays are int64 ``[samples]``. ``domains`` index ``domain_names`` and ``official`` holds values of
    ``promptfleet.data.dataset.Part``; each is None if the dataset has none.
    """

    labels: np.ndarray
    class_names: tuple[str, ...]
    domains: np.ndarray | None = None
    domain_names: tuple[str, ...] = ()
    official: np.ndarray | None = None

    @classmethod
    def of_dataset(cls, dataset: Dataset) -> "Samples":
        return cls(dataset.labels, dataset.class_names, dataset.domains, dataset.domain_names, dataset.official)

    @classmethod
    def of_store(
        cls, store: FeatureStore, class_names: tuple[str, ...], domain_names: tuple[str, ...] = ()
    ) -> "Samples":
        """Return the same from the dataset's feature store, which keeps all but the names."""
        domains, official = (None if (column == NONE).all() else column for column in (store.domains, store.official))
        return cls(store.labels, class_names, domains, domain_names, official)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> int:
        return len(self.class_names)

    @property
    def groups(self) -> np.ndarray:
        """Return the combination of label and domain of each sample, int64 ``[samples]``: the label without domains."""
        return self.labels if self.domains is None else self.labels * len(self.domain_names) + self.domains

    def take(self, indices: np.ndarray) -> "Samples":
        """Return some of the samples, in this order."""
        return Samples(
            self.labels[indices],
            self.class_names,
            None if self.domains is None else self.domains[indices],
            self.domain_names,
            None if self.official is None else self.official[indices],
        )
