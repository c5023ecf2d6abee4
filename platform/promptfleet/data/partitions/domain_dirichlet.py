"""Feature and label shift: each client sees one domain, with its own mix of classes."""

import numpy as np

from promptfleet.config import PartitionConfig
from promptfleet.data.partitions.dirichlet import MAX_DRAWS
from promptfleet.data.partitions.dirichlet import assign as assign_dirichlet
from promptfleet.data.partitions.domain import clients_by_domain
from promptfleet.data.samples import Samples
from promptfleet.errors import DataError


def assign(
    samples: Samples,
    *,
    clients: int,
    settings: PartitionConfig,
    rng: np.random.Generator,
    draws: int = MAX_DRAWS,
) -> list[np.ndarray]:
    """Give every client one domain, and divide each domain by Dirichlet(alpha) over its clients.

    Raises:
        ConfigError: if the dataset has no domains, or more than there are clients.
        DataError: naming the domain that is too small for its clients, or that no draw shared out well enough.
    Source: Luo et al., arXiv:2410.10114: five clients for each domain of DomainNet and of Office-Caltech10.
    """
    owned = []
    for domain, its_clients in enumerate(clients_by_domain(samples, clients, settings)):
        mine = np.flatnonzero(samples.domains == domain)
        try:
            shares = assign_dirichlet(
                samples.take(mine), clients=len(its_clients), settings=settings, rng=rng, draws=draws
            )
        except DataError as error:
            raise DataError(f"domain {samples.domain_names[domain]!r}: {error}") from None
        owned += [mine[share] for share in shares]
    return owned
