"""Encoding of images as features: decoding, preprocessing and the image tower, in parallel threads or processes."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from promptfleet.clip.backbone import Backbone, load_backbone
from promptfleet.clip.patches import PatchEncoder
from promptfleet.config import FederationConfig
from promptfleet.data.dataset import Dataset
from promptfleet.data.datasets import load_dataset
from promptfleet.data.views import random_views
from promptfleet.devices import moved, release_memory, set_arithmetic
from promptfleet.errors import DataError, PromptfleetError

BATCH = 32  # images in one forward pass; on a CPU a larger one is no faster

Kind = Literal["features", "patches", "views"]
Arrays = dict[Kind, np.ndarray]


def load_inputs(config: FederationConfig) -> tuple[Dataset, Backbone]:
    """Return the dataset and the backbone of a configuration. Raises ConfigError, DataError, BackboneError."""
    dataset = load_dataset(config.dataset, config.data.root, config.data.folder)
    return dataset, load_backbone(config.backbone, config.seed)


class Encoder:
    """Encoder of parts of a dataset. Threads may share one; each image is read once for all kinds of features.

    A forward pass takes one thread: so the bits of a feature do not depend on the number of cores, and cores are kept
    busier by several parallel passes than by one that they share.
    """

    def __init__(self, backbone: Backbone, dataset: Dataset, kinds: Collection[Kind], views: int, device: torch.device):
        self._dataset, self._transform = dataset, backbone.transform
        self._device = device
        set_arithmetic(device)  # independent of ``precision``: features are kept for other federations
        self._model = backbone.model.to(device)
        self._kinds, self._views = kinds, views
        self._with_patches = PatchEncoder(self._model, backbone.name) if "patches" in kinds else None

    @torch.inference_mode()
    def __call__(self, part: range) -> Arrays:
        """Return unit-norm features of the images of ``part`` by kind, ``[len(part), ...]``. Raises DataError."""
        batches = [part[start : start + BATCH] for start in range(0, len(part), BATCH)]
        encoded = [self._encode_batch(batch) for batch in batches]
        return {kind: torch.cat([arrays[kind] for arrays in encoded]).numpy() for kind in self._kinds}

    def _encode_batch(self, batch: range) -> dict[Kind, Tensor]:
        pixels = [self._pixels(index) for index in batch]
        encoded: dict[Kind, Tensor] = {}
        if self._with_patches is not None:
            encoded["features"], encoded["patches"] = self._with_patches(self._stack(image[0] for image in pixels))
        elif "features" in self._kinds:
            encoded["features"] = self._encode(image[0] for image in pixels)
        if "views" in self._kinds:
            views = [self._encode(image[1 + view] for image in pixels) for view in range(self._views)]
            encoded["views"] = torch.stack(views, dim=1)
        return {kind: tensor.cpu() for kind, tensor in encoded.items()}

    def _pixels(self, index: int) -> list[Tensor]:
        """Return the preprocessed image, then its views if there are any."""
        try:
            image = self._dataset.read_image(index)
            first = self._transform(image)
            if "views" not in self._kinds:
                return [first]
            views = random_views(image, index, self._views, first.shape[-1])
        except PromptfleetError:
            raise
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(f"dataset {self._dataset.name}: image {index} cannot be read ({error})") from error
        return [first, *map(self._transform, views)]

    def _encode(self, images: Iterable[Tensor]) -> Tensor:
        return self._model.encode_image(self._stack(images), normalize=True)

    def _stack(self, images: Iterable[Tensor]) -> Tensor:
        return moved(torch.stack(list(images)), self._device)

    def close(self) -> None:
        """Release the GPU for the processes that train."""
        self._model.to("cpu")
        release_memory(self._device)


@dataclass(frozen=True)
class EncodedPart:
    """Features of some images. ``seconds`` is its share of the time: its own, divided by the number in parallel."""

    images: range
    arrays: Arrays
    seconds: float


def encode_in_threads(encode: Callable[[range], Arrays], parts: Sequence[range], threads: int) -> Iterator[EncodedPart]:
    """Encode parts in parallel and yield each when it is done; memory holds one per thread, and one more.

    After an error no further part is started; running ones are still yielded, then the error is raised.
    """
    todo, failure = iter(parts), None
    side_by_side = min(threads, len(parts))

    def encode_one(part: range) -> EncodedPart:
        started = time.perf_counter()
        return EncodedPart(part, encode(part), (time.perf_counter() - started) / side_by_side)

    threads_before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=partial(torch.set_num_threads, 1)) as pool:
            running = {pool.submit(encode_one, part) for part in islice(todo, threads + 1)}
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                failure = failure or next((future.exception() for future in done if future.exception()), None)
                if failure is None:
                    running |= {pool.submit(encode_one, part) for part in islice(todo, len(done))}
                yield from (future.result() for future in done if not future.exception())
        if failure is not None:
            raise failure
    finally:
        torch.set_num_threads(threads_before)
