"""Examples of clients for their method: read from the feature store, and decoded if it needs pixels."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from promptfleet.config import FederationConfig
from promptfleet.data.feature_store import FeatureStore
from promptfleet.data.samples import Samples
from promptfleet.devices import from_numpy
from promptfleet.features.stored_images import images_of
from promptfleet.federation.partitioning import partition_for
from promptfleet.federation.prepare import Prepared
from promptfleet.methods import load_method
from promptfleet.methods.protocol import Examples, Needs, PixelReader, Pixels, World


class ClientExamples(NamedTuple):
    """Training, validation and test part of one client."""

    train: Examples
    val: Examples
    test: Examples


def client_examples(config: FederationConfig, prepared: Prepared) -> list[ClientExamples]:
    """Return the parts of each client, by client id, as ``run_federation`` deals them out. They are on the CPU.

    Raises:
        ConfigError, DataError: a partition that is impossible for this dataset, or a file that is missing or damaged.
    """
    store, needs = prepared.open_store(), load_method(config.method).needs_of(config)
    samples = Samples.of_store(store, prepared.class_names, prepared.domain_names)
    read_pixels = pixel_reader_for(needs, prepared.world(config), store)

    def part(indices: np.ndarray, *, with_views: bool = False) -> Examples:
        return examples_of(store, indices, needs, torch.device("cpu"), read_pixels, with_views=with_views)

    return [
        ClientExamples(part(split.train, with_views=True), part(split.val), part(split.test))
        for split in partition_for(config, samples).clients
    ]


def examples_of(
    store: FeatureStore,
    indices: np.ndarray,
    needs: Needs,
    device: torch.device,
    read_pixels: PixelReader | None = None,
    *,
    with_views: bool = False,
) -> Examples:
    """Return the samples at ``indices`` with their labels; their pixels are decoded by ``read_pixels``, if given."""
    images = images_of(store, indices, needs, device, with_views=with_views)
    if read_pixels is not None:
        images = replace(images, pixels=Pixels(indices, read_pixels))
    return Examples(images, from_numpy(store.labels[indices], device))


def public_examples(world: World, store: FeatureStore, indices: np.ndarray) -> Examples | None:
    """Return the examples at ``indices`` for the server of a world, or None if there are none."""
    if not len(indices):
        return None
    needs = load_method(world.config.method).needs_of(world.config)
    return examples_of(store, indices, needs, world.device, pixel_reader_for(needs, world, store))


def pixel_reader_for(needs: Needs, world: World, store: FeatureStore) -> PixelReader | None:
    """Return the function that decodes images, or None for methods that need no pixels. Raises as ``pixel_reader``."""
    if Needs.PIXELS not in needs:
        return None
    from promptfleet.features.pixels import pixel_reader  # datasets and decoders, which other methods do not load

    return pixel_reader(world, store.labels)
