"""Pixels for methods that need them: the dataset's own images, decoded on request."""

import numpy as np
import torch
from torch import Tensor

from promptfleet.data.datasets import load_dataset
from promptfleet.errors import DataError
from promptfleet.methods.protocol import PixelReader, World


def pixel_reader(world: World, labels: np.ndarray) -> PixelReader:
    """Return a function from sample indices to ``[images, 3, height, width]`` on the world's device.

    Raises:
        DataError: the dataset is missing here, or not the one whose ``labels`` are in the feature store.
    """
    config, tower, device = world.config, world.image_tower, world.device
    dataset = load_dataset(config.dataset, config.data.root, config.data.folder)
    if not np.array_equal(dataset.labels, labels):
        raise DataError(f"dataset {config.dataset}: its files under {config.data.root} are not those that were encoded")

    def read(indices: np.ndarray) -> Tensor:
        return torch.stack([tower.transform(dataset.read_image(int(index))) for index in indices]).to(device)

    return read
