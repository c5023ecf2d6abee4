"""A partition as a file: written once, drawn, kept beside a paper, and used by as many federations as one likes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from promptfleet.atomic_files import replacing
from promptfleet.data.partition import Partition
from promptfleet.data.regular_files import open_regular
from promptfleet.data.samples import Samples
from promptfleet.errors import DataError, first_line

FORMAT, VERSION = "promptfleet-partition", 1
_PARTS = ("train", "val", "test")


@dataclass(frozen=True, eq=False)
class StoredPartition:
    """A partition and what it was made for: the dataset's name and its numbers of samples and classes."""

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
    try:
        with replacing(path) as partial:
            partial.write_text(f"{head},\n{partition.to_json().removeprefix('{')}\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from None


def load_partition(path: str | Path) -> StoredPartition:
    """Read what ``save_partition`` wrote, or what somebody else wrote in its format.

    Raises:
        DataError: if the file is missing, no such file, or no partition: a client without samples in a part, a sample
            that stands twice or that the dataset does not have.
    """
    try:
        with open_regular(path) as file:
            values = json.loads(file.read().decode("utf-8"))
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise DataError(f"{path}: no partition, its 'format' should be {FORMAT!r}")
        if values.get("version") != VERSION:
            raise DataError(f"{path}: format version {values.get('version')!r}, this promptfleet reads {VERSION}")
        dataset, samples, classes = values["dataset"], int(values["samples"]), int(values["classes"])
        partition = Partition.from_json(json.dumps({"clients": values["clients"]}))
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except KeyError as error:
        raise DataError(f"{path}: damaged, {error.args[0]!r} is missing") from None
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: damaged ({first_line(error)})") from None
    _check_samples(path, partition, samples)
    if values.get("fingerprint") not in (None, partition.fingerprint()):
        raise DataError(f"{path}: changed since it was written; remove its 'fingerprint' if that was meant")
    return StoredPartition(partition, dataset, samples, classes)


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


def _dataset_text(dataset: str, samples: int, classes: int) -> str:
    return f"{dataset} with {samples} samples and {classes} classes"


def _check_samples(path: str | Path, partition: Partition, samples: int) -> None:
    owner = np.full(samples, -1)
    for client, split in enumerate(partition.clients):
        for name in _PARTS:
            part = getattr(split, name)
            if part.ndim != 1:
                raise DataError(f"{path}: client {client}: {name!r} is no list of samples")
            if not len(part):
                raise DataError(f"{path}: client {client} has no samples in {name!r}")
            if not 0 <= part.min() <= part.max() < samples:
                raise DataError(f"{path}: client {client} has sample {part.max()} in {name!r}, there are {samples}")
            twice = part[owner[part] >= 0] if len(np.unique(part)) == len(part) else part[np.bincount(part)[part] > 1]
            if len(twice):
                raise DataError(f"{path}: sample {twice[0]} stands twice, the second time with client {client}")
            owner[part] = client
