"""Who owns which samples: the partition of a dataset over clients, and each client's own split."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from promptfleet.config import PartitionConfig
from promptfleet.data.client_split import MIN_SAMPLES, ClientSplit, check_fractions, split_client
from promptfleet.data.partitions import assign_dirichlet, assign_iid, assign_pathological
from promptfleet.errors import DataError
from promptfleet.seeding import stream

SCHEMES: dict[str, Callable[..., list[np.ndarray]]] = {
    "iid": assign_iid,
    "dirichlet": assign_dirichlet,
    "pathological": assign_pathological,
}


@dataclass(frozen=True, eq=False)
class Partition:
    """The splits of all clients; ``clients[i]`` is client ``i``'s. No sample stands twice."""

    clients: tuple[ClientSplit, ...]

    def label_counts(self, labels: np.ndarray, classes: int) -> np.ndarray:
        """How many samples of each label each client owns, all three parts together: int ``[clients, classes]``."""
        return np.stack([np.bincount(labels[split.samples()], minlength=classes) for split in self.clients])

    def fingerprint(self) -> str:
        """Hash of who owns what, in which part."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """One object per client with the sample indices of its parts."""
        parts = [{name: part.tolist() for name, part in vars(split).items()} for split in self.clients]
        return json.dumps({"clients": parts}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Partition":
        """Read what ``to_json`` wrote. Raises DataError if ``text`` is anything else."""
        try:
            splits = [
                ClientSplit(**{name: np.array(part, dtype=np.int64) for name, part in client.items()})
                for client in json.loads(text)["clients"]
            ]
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            raise DataError(f"not a partition written by to_json ({type(error).__name__}: {error})") from None
        return cls(tuple(splits))


def make_partition(
    labels: np.ndarray, *, classes: int, clients: int, settings: PartitionConfig, seed: int
) -> Partition:
    """Give samples to clients as ``settings.kind`` says, then split what each client got.

    labels int64 ``[samples]`` in 0..classes-1. Who owns what depends on ``seed``, ``clients`` and the scheme's own
    settings; the fractions only change how each client's samples are split, never who owns them.

    Raises:
        ConfigError: if the fractions leave nothing to train on, or the scheme's settings do not fit the classes.
        DataError: if there are too few samples for so many clients, or no draw met the scheme's conditions.
    """
    check_fractions(settings.val_fraction, settings.test_fraction)
    if clients * MIN_SAMPLES > len(labels):
        raise DataError(
            f"clients={clients}: a client needs {MIN_SAMPLES} samples (train, val, test) but there are only "
            f"{len(labels)}; set clients to {len(labels) // MIN_SAMPLES} or less"
        )
    assign = SCHEMES[settings.kind]
    owned = assign(labels, classes=classes, clients=clients, settings=settings, rng=stream(seed, "partition"))
    return Partition(
        tuple(
            split_client(
                np.sort(samples),
                labels,
                val_fraction=settings.val_fraction,
                test_fraction=settings.test_fraction,
                rng=stream(seed, "split", client=client),
            )
            for client, samples in enumerate(owned)
        )
    )
