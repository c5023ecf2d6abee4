"""Partition as a file: written once, drawn, archived with a paper, and used by any number of federations."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import ConfigDict, Field

from promptfleet.atomic_files import replacing
from promptfleet.config import PartitionConfig
from promptfleet.data.client_split import ClientSplit
from promptfleet.data.partition import Partition
from promptfleet.data.samples import Samples
from promptfleet.data.unseen import base_classes, seen_samples
from promptfleet.disks import disk_errors
from promptfleet.errors import DataError, first_line
from promptfleet.strict_json import Count, Counts, parse_json

FORMAT, VERSION = "promptfleet-partition", 1
_PARTS = ("train", "val", "test")


@dataclass(frozen=True, eq=False)
class StoredPartition:
    """A partition and its dataset: the name and the numbers of samples and classes."""

    partition: Partition
    dataset: str
    samples: int
    classes: int


def save_partition(
    path: str | Path, partition: Partition, samples: Samples, *, dataset: str, made_with: Mapping[str, Any]
) -> None:
    """Write ``partition`` as JSON, in one step; ``made_with`` (seed, settings) is for the reader.

    Raises:
        DataError: if the disk refuses.
    """
    about = {
        "format": FORMAT,
        "version": VERSION,
        "dataset": dataset,
        "samples": len(samples),
        "classes": samples.classes,
        "made_with": dict(made_with),
        "fingerprint": partition.fingerprint(),
    }
    head = json.dumps(about, indent=1).removesuffix("\n}")
    with disk_errors(path), replacing(path) as partial:
        partial.write_text(f"{head},\n{partition.to_json().removeprefix('{')}\n")


def check_replaceable(path: Path, partition: Partition) -> None:
    """Raise DataError if this path has a file of another partition than ``partition``."""
    with disk_errors(path, doing="read"):
        if not path.exists():
            return
    try:
        same = load_partition(path).partition.fingerprint() == partition.fingerprint()
    except DataError:
        same = False
    if not same:
        raise DataError(f"{path}: holds another partition; choose another folder, or give --overwrite")


def load_partition(path: str | Path) -> StoredPartition:
    """Read a partition that ``save_partition``, or another program, wrote in its format.

    Memory is bounded by the file's size; the numbers in it have no effect on that.

    Raises:
        DataError: if the file is missing or no partition: a client without samples in a part, a sample that is
            assigned twice or that the dataset does not have.
    """
    try:
        text = Path(path).read_bytes()
        head = parse_json(_Head, text)
        if head.format != FORMAT:
            raise DataError(f"{path}: no partition, its 'format' should be {FORMAT!r}")
        if head.version != VERSION:
            raise DataError(f"{path}: format version {head.version!r}, this promptfleet reads {VERSION}")
        found = parse_json(_Content, text)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise DataError(f"{path}: damaged, or no partition ({first_line(error)})") from None
    splits = tuple(ClientSplit(*_arrays(client)) for client in found.clients)
    partition = Partition(splits, np.array(found.public, dtype=np.int64))
    _check_samples(path, partition, found.samples)
    if found.fingerprint not in (None, partition.fingerprint()):
        raise DataError(f"{path}: changed since it was written; remove its 'fingerprint' if that was meant")
    return StoredPartition(partition, found.dataset, found.samples, found.classes)


@dataclass(frozen=True)
class _Head:
    format: Any = None
    version: Any = None


@dataclass(frozen=True)
class _Client:
    __pydantic_config__ = ConfigDict(extra="forbid")

    train: Counts
    val: Counts
    test: Counts


@dataclass(frozen=True)
class _Content:
    dataset: str
    samples: Count
    classes: Count
    clients: Annotated[list[_Client], Field(min_length=1, fail_fast=True)]
    public: Counts = field(default_factory=list)
    fingerprint: str | None = None


def _arrays(client: _Client) -> list[np.ndarray]:
    return [np.array(getattr(client, name), dtype=np.int64) for name in _PARTS]


def check_fits(stored: StoredPartition, path: str | Path, samples: Samples, *, dataset: str, clients: int) -> None:
    """Raise DataError unless ``stored`` was made for this dataset and this many clients."""
    made_for = (stored.dataset, stored.samples, stored.classes)
    if made_for != (dataset, len(samples), samples.classes):
        raise DataError(
            f"partition.file={path}: made for {_dataset_text(*made_for)}, this federation has "
            f"{_dataset_text(dataset, len(samples), samples.classes)}"
        )
    found = len(stored.partition.clients)
    if found != clients:
        raise DataError(f"partition.file={path}: has {found} clients; set clients to {found} (found clients={clients})")


def check_seen(partition: Partition, settings: PartitionConfig, samples: Samples) -> None:
    """Raise DataError if a client, or the server, has samples of a file that ``settings`` give to no client."""
    _, seen = seen_samples(samples, settings)
    owned = {f"client {client} has": split.samples() for client, split in enumerate(partition.clients)}
    for owner, indices in {**owned, "'public' has": partition.public}.items():
        if len(unseen := np.setdiff1d(indices, seen)):
            label = samples.labels[unseen[0]]
            what, setting = f"the new class {samples.class_names[label]!r}", f"new_classes={settings.new_classes:g}"
            if label < base_classes(settings, samples.classes):
                name = settings.held_out_domain
                what, setting = f"the held-out domain {name!r}", f"held_out_domain={name}"
            raise DataError(
                f"partition.file={settings.file}: {owner} sample {unseen[0]} of {what}; make the file "
                f"with partition.{setting}, or leave that out"
            )


def _dataset_text(dataset: str, samples: int, classes: int) -> str:
    return f"{dataset} with {samples} samples and {classes} classes"


def _check_samples(path: str | Path, partition: Partition, samples: int) -> None:
    for client, split in enumerate(partition.clients):
        for name in _PARTS:
            part = getattr(split, name)
            if not len(part):
                raise DataError(f"{path}: client {client} has no samples in {name!r}")
            if part.max() >= samples:
                raise DataError(f"{path}: client {client} has sample {part.max()} in {name!r}, there are {samples}")
    if len(partition.public) and partition.public.max() >= samples:
        raise DataError(f"{path}: 'public' has sample {partition.public.max()}, there are {samples}")
    owned = [*(split.samples() for split in partition.clients), partition.public]
    everything, owner = np.concatenate(owned), np.repeat(np.arange(len(owned)), list(map(len, owned)))
    order = everything.argsort(kind="stable")  # among equal samples the first client's comes first
    again = order[1:][np.diff(everything[order]) == 0]
    if len(again):
        sample, client = everything[again.min()], owner[again.min()]
        owner_name = f"client {client}" if client < len(partition.clients) else "the public part"
        raise DataError(f"{path}: sample {sample} is assigned twice, the second time to {owner_name}")
