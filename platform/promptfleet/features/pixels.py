"""Pixels for methods that need them: the dataset's own images, decoded on request and kept while there is room."""

import numpy as np
import torch
from torch import Tensor

from promptfleet.data.dataset import Dataset
from promptfleet.data.datasets import load_dataset
from promptfleet.devices import moved
from promptfleet.errors import DataError
from promptfleet.methods.protocol import World


class CachedPixels:
    """Reader of a dataset's images, as ``PixelReader``, for all clients of a process.

    It keeps the first images that fit into ``features.pixels_cache_bytes``, in memory of the CPU. Kept ones stay: where
    there is no room for all, each epoch decodes the same rest.
    """

    def __init__(self, world: World, dataset: Dataset):
        height, width = world.image_tower.image_size
        self._dataset, self._transform, self._device = dataset, world.image_tower.transform, world.device
        self._room = world.config.features.pixels_cache_bytes // (4 * 3 * height * width)
        self._kept: dict[int, Tensor] = {}

    def __call__(self, indices: np.ndarray) -> Tensor:
        return moved(torch.stack([self._pixels(int(index)) for index in indices]), self._device)

    def for_update(self, indices: np.ndarray) -> Tensor | None:
        if self._device.type == "cpu" or len(indices) > self._room:
            return None
        return self(indices)

    def _pixels(self, index: int) -> Tensor:
        pixels = self._kept.get(index)
        if pixels is None:
            pixels = self._transform(self._dataset.read_image(index))
            if len(self._kept) < self._room:
                self._kept[index] = pixels
        return pixels


def pixel_reader(world: World, labels: np.ndarray) -> CachedPixels:
    """Return the reader of the world's dataset.

    Raises:
        DataError: the dataset is missing here, or not the one whose ``labels`` are in the feature store.
    """
    config = world.config
    dataset = load_dataset(config.dataset, config.data.root, config.data.folder)
    if not np.array_equal(dataset.labels, labels):
        raise DataError(f"dataset {config.dataset}: its files under {config.data.root} are not those that were encoded")
    return CachedPixels(world, dataset)
