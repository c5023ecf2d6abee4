"""Encoding of images, once per content: features that a store lacks are computed, and survive a kill."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from promptfleet.atomic_files import locked
from promptfleet.clip.backbone import Backbone
from promptfleet.cluster.session import ray_runs
from promptfleet.config import FeaturesConfig, FederationConfig
from promptfleet.data.dataset import Dataset
from promptfleet.data.feature_store import NONE, feature_key, feature_path, open_features, write_features
from promptfleet.data.partial_rows import PartialRows
from promptfleet.devices import choose_device
from promptfleet.disks import disk_errors
from promptfleet.errors import ConfigError, DataError
from promptfleet.features.image_encoder import BATCH, EncodedPart, Encoder, Kind, encode_in_threads
from promptfleet.limits import check_views
from promptfleet.methods.protocol import Needs
from promptfleet.storage.remote import FEATURES, bring_file, fetch_missing

logger = logging.getLogger(__name__)

PART = 64  # images between two writes to disk
QUIET_SECONDS = 5.0


@dataclass(frozen=True)
class Wanted:
    """A file of a feature store: its kind, the parts of its key, its type and its path."""

    kind: Kind
    key_parts: Mapping[str, str]
    dtype: str
    path: Path


def features_folder(config: FederationConfig) -> Path:
    """Return the folder of this configuration's feature stores."""
    return config.storage.folder.absolute() / FEATURES


def wanted_files(
    backbone: Backbone, dataset: Dataset, settings: FeaturesConfig, needs: Needs, folder: Path
) -> list[Wanted]:
    """Return the files in ``folder`` that methods with these needs read: global features always. Raises ConfigError."""
    for need, seen in ((Needs.PATCHES, "patches"), (Needs.PIXELS, "pixels")):
        if need in needs and settings.views:
            raise ConfigError(
                f"features.views={settings.views}: there are no views for methods that see {seen}; set it to 0"
            )

    def file(kind: Kind, what: str, dtype: str) -> Wanted:
        key_parts = _content(backbone, dataset) | {"features": f"{what}, unit norm"}
        if dtype != "float32":
            key_parts["dtype"] = dtype
        return Wanted(kind, key_parts, dtype, feature_path(folder, key_parts))

    files = [file("features", "global", settings.dtype)]
    if Needs.PATCHES in needs:
        files.append(file("patches", "patches", settings.patches_dtype))
    if settings.views:
        files.append(file("views", f"{settings.views} views", settings.dtype))
    return files


def encode_missing(
    config: FederationConfig, backbone: Backbone, dataset: Dataset, files: Sequence[Wanted]
) -> float | None:
    """Make the ``files`` that are missing, damaged or of another content, all in one pass over the images.

    Returns the images encoded per second; None if no file had to be made. Of several processes that need the same, one
    encodes and the others wait for it. Finished features are on disk at once: after a kill, or an image that cannot be
    read, the next call continues from there.

    Raises:
        DataError: an image that cannot be read, features that are not finite, or a disk that refuses.
        BackboneError: patches are wanted of an image tower that has none.
    """
    for file in files:
        fetch_missing(config.storage, file.path)
    if not any(_problem(file, dataset) for file in files):
        return None
    _check_views(config, backbone, dataset, files)
    lock = files[0].path.with_name(f"{feature_key(**_content(backbone, dataset))[:16]}.lock")

    def on_wait() -> None:
        logger.info("another process is encoding %s with %s: waiting for it", dataset.name, backbone.name)

    with disk_errors(lock), locked(lock, on_wait):
        problems = {file.path: _problem(file, dataset) for file in files}
        damaged = [path for path, problem in problems.items() if problem and path.exists()]
        for path in damaged:
            logger.warning("%s; encoding the images again", problems[path])
        missing = [file for file in files if problems[file.path]]
        speed = _encode(config, backbone, dataset, missing) if missing else None
    for path in damaged:
        bring_file(config.storage, path)  # the address may have the damaged one, of the same name and size
    return speed


def _check_views(config: FederationConfig, backbone: Backbone, dataset: Dataset, files: Sequence[Wanted]) -> None:
    side = backbone.architecture.get("vision_cfg", {}).get("image_size", 224)
    width, height = side if isinstance(side, list | tuple) else (side, side)
    for file in files:
        if file.kind == "views" and not file.path.exists():
            check_views(
                config.features.views,
                images=len(dataset),
                dim=backbone.architecture.get("embed_dim", 1),
                itemsize=np.dtype(file.dtype).itemsize,
                pixels=width * height,
                batch=min(BATCH, len(dataset)),
                folder=file.path.parent,
            )


def _encode(config: FederationConfig, backbone: Backbone, dataset: Dataset, files: Sequence[Wanted]) -> float:
    rows = {file.kind: PartialRows(file.path.with_suffix(".encoding"), len(dataset), file.dtype) for file in files}
    parts = [range(start, min(start + PART, len(dataset))) for start in range(0, len(dataset), PART)]
    missing = [part for part in parts if not all(one.has(part) for one in rows.values())]
    progress = Progress(dataset.name, backbone.name, len(dataset), sum(map(len, missing)))
    for part in _encoded(config, backbone, dataset, list(rows), missing):
        for kind, array in part.arrays.items():
            rows[kind].put(part.images, array)
        progress.add(len(part.images), part.seconds)
    for file in files:
        labels = dataset.labels, dataset.domains, dataset.official
        write_features(file.path.parent, file.key_parts, rows[file.kind].array(), *labels)
        rows[file.kind].delete()
    return progress.finish()


def _encoded(
    config: FederationConfig, backbone: Backbone, dataset: Dataset, kinds: Sequence[Kind], parts: Sequence[range]
) -> Iterator[EncodedPart]:
    """Yield features of each part, in the order of completion: from Ray if it offers more than this process."""
    if ray_runs():
        from promptfleet.features.ray_encoding import NoEncoder, encode_on_ray, plan_encoders

        encoders = plan_encoders(len(parts), config.runtime.device)
        if encoders is not None:
            try:
                yield from encode_on_ray(config, kinds, _content(backbone, dataset), parts, encoders)
                return
            except NoEncoder as error:
                logger.warning("encoding in this process alone, since no node can: %s", error)
    encoder = Encoder(backbone, dataset, kinds, config.features.views, choose_device(config.runtime.device))
    with closing(encoder):
        yield from encode_in_threads(encoder, parts, torch.get_num_threads())


def _problem(file: Wanted, dataset: Dataset) -> str | None:
    """Return the reason why the file cannot be used; None if it can."""
    try:
        store = open_features(file.path, file.key_parts)
    except DataError as error:
        return str(error)
    none = np.full(len(dataset), NONE)
    pairs = [
        (store.labels, dataset.labels),
        (store.domains, none if dataset.domains is None else dataset.domains),
        (store.official, none if dataset.official is None else dataset.official),
    ]
    if all(np.array_equal(found, wanted) for found, wanted in pairs):
        return None
    return f"{file.path}: its labels, domains or official parts are not those of {dataset.name}"


def _content(backbone: Backbone, dataset: Dataset) -> dict[str, str]:
    return {"backbone": backbone.fingerprint, "dataset": dataset.fingerprint}


class Progress:
    """Log of the encoding's progress: every few seconds, and at the end."""

    def __init__(self, dataset: str, backbone: str, samples: int, missing: int):
        self._dataset, self._samples, self._missing, self._done = dataset, samples, missing, 0
        self._seconds = 0.0  # of encoding alone, without the start of processes
        self._started = self._last = time.monotonic()
        kept = f", {samples - missing} are done" if missing < samples else ""
        logger.info("encoding %d images of %s with %s%s", samples, dataset, backbone, kept)

    def add(self, images: int, seconds: float) -> None:
        """Add some images and their share of the time, see ``EncodedPart``."""
        self._done += images
        self._seconds += seconds
        now = time.monotonic()
        if now - self._last >= QUIET_SECONDS and self._done < self._missing:
            self._last = now
            each_s = self._seconds / self._done
            left_s = round((self._missing - self._done) * each_s)
            done = self._samples - self._missing + self._done
            left = f"{left_s // 60}m{left_s % 60:02d}s left"
            logger.info("encoding %s: %d/%d images, %s, %s", self._dataset, done, self._samples, _speed(each_s), left)

    def finish(self) -> float:
        """Return the images encoded per second, the start of processes included."""
        seconds = time.monotonic() - self._started
        speed = _speed(seconds / max(self._done, 1))
        logger.info("encoded %d images of %s in %.1f s, %s", self._missing, self._dataset, seconds, speed)
        return self._done / seconds


def _speed(seconds: float) -> str:
    """Return the speed of images that take ``seconds`` each."""
    speed = 1 / max(seconds, 1e-9)
    return f"{speed:.1f} images/s" if speed < 100 else f"{speed:.0f} images/s"
