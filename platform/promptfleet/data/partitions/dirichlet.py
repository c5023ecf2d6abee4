"""Label shift: each class is spread over the clients unevenly, and differently from class to class."""

import numpy as np

from promptfleet.config import PartitionConfig
from promptfleet.data.samples import Samples
from promptfleet.errors import DataError

MAX_DRAWS = 1000


def assign(
    samples: Samples,
    *,
    clients: int,
    settings: PartitionConfig,
    rng: np.random.Generator,
    draws: int = MAX_DRAWS,
) -> list[np.ndarray]:
    """Divide each class by proportions drawn from Dirichlet(alpha) over the clients. Every sample is used.

    Draws at most ``draws`` times until every client has ``settings.min_samples``.

    Raises:
        DataError: if there are fewer than ``clients * min_samples`` samples, or if no draw was good enough.
    Source: Yurochkin et al., arXiv:1905.12022, experiments. Differs: they do not ask for a least client size.
    """
    needed = clients * settings.min_samples
    if needed > len(samples):
        raise DataError(
            f"partition.min_samples={settings.min_samples}: {clients} clients need {needed} samples but there are only "
            f"{len(samples)}"
        )
    labels, classes = samples.labels, samples.classes
    class_sizes = np.bincount(labels, minlength=classes)
    cuts = _draw_cuts(class_sizes, clients, settings, rng, draws)
    of_class = [np.split(rng.permutation(np.flatnonzero(labels == label)), cuts[label]) for label in range(classes)]
    return [np.concatenate([pieces[client] for pieces in of_class]) for client in range(clients)]


def _draw_cuts(
    class_sizes: np.ndarray, clients: int, settings: PartitionConfig, rng: np.random.Generator, draws: int
) -> np.ndarray:
    """Return the cuts ``[classes, clients - 1]`` of each class's samples such that every client gets enough."""
    most = 0
    for _ in range(draws):
        proportions = rng.dirichlet(np.full(clients, settings.alpha), size=len(class_sizes))
        cuts = np.rint(proportions.cumsum(axis=1)[:, :-1] * class_sizes[:, None]).astype(np.int64)
        sizes = np.diff(cuts, axis=1, prepend=0, append=class_sizes[:, None]).sum(axis=0)
        if sizes.min() >= settings.min_samples:
            return cuts
        most = max(most, int(sizes.min()))
    raise DataError(
        f"partition.alpha={settings.alpha}: in {draws} draws some of {clients} clients always got fewer than "
        f"partition.min_samples={settings.min_samples} samples (at best {most})"
    )
