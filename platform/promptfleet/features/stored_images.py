"""Images of a client in the feature store."""

import numpy as np
import torch
from torch import Tensor

from promptfleet.data.feature_store import FeatureStore, rows_of
from promptfleet.devices import from_numpy
from promptfleet.methods.protocol import Images, Needs


def images_of(
    store: FeatureStore, indices: np.ndarray, needs: Needs, device: torch.device, *, with_views: bool = False
) -> Images:
    """Return the images of some samples for a method with these needs; ``with_views`` if there are any."""
    features = from_numpy(rows_of(store.features, indices), device)
    if Needs.PATCHES in needs:
        return MappedImages(features, store.patches, indices)
    if with_views and store.views is not None:
        return Images(features, views=from_numpy(rows_of(store.views, indices), device))
    return Images(features)


class MappedImages(Images):
    """Images whose patches stay on disk: requested ones are read, and not kept."""

    def __init__(self, features: Tensor, mapped: np.ndarray, rows: np.ndarray):
        vars(self).update(features=features, views=None, _mapped=mapped, _rows=rows)

    @property
    def patches(self) -> Tensor:
        return self._read(self._rows)

    def __getitem__(self, chosen: Tensor) -> Images:
        return Images(self.features[chosen], self._read(self._rows[chosen.cpu().numpy()]))

    def for_update(self) -> Images:
        return self if self.features.device.type == "cpu" else Images(self.features, self.patches)

    def _read(self, rows: np.ndarray) -> Tensor:
        return from_numpy(rows_of(self._mapped, rows), self.features.device)
