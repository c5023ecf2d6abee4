"""Feature shift: each client sees one domain."""

import numpy as np

from promptfleet.config import PartitionConfig
from promptfleet.data.samples import Samples
from promptfleet.errors import ConfigError, DataError


def assign(samples: Samples, *, clients: int, settings: PartitionConfig, rng: np.random.Generator) -> list[np.ndarray]:
    """Give every client one domain, and every domain to about as many clients, who divide it at random.

    Raises:
        ConfigError: if the dataset has no domains, or more than there are clients.
    Source: Li et al., arXiv:2102.07623 (FedBN), one client per domain.
    """
    owned = []
    for domain, its_clients in enumerate(clients_by_domain(samples, clients, settings)):
        owned += np.array_split(rng.permutation(np.flatnonzero(samples.domains == domain)), len(its_clients))
    return owned


def clients_by_domain(samples: Samples, clients: int, settings: PartitionConfig) -> list[np.ndarray]:
    """Return the clients of each domain: neighbours in client order, as many as of any other domain or one more.

    Raises ConfigError as ``assign`` says, and DataError if a domain has no sample.
    """
    domains = len(samples.domain_names)
    if samples.domains is None:
        raise ConfigError(
            f"partition.kind={settings.kind}: the dataset has no domains; use partition.kind=dirichlet, or a dataset "
            f"with domains"
        )
    if clients < domains:
        raise ConfigError(
            f"partition.kind={settings.kind}: clients={clients} cannot have all {domains} domains, one each; set "
            f"clients to {domains} or more"
        )
    empty = np.setdiff1d(np.arange(domains), samples.domains)
    if len(empty):
        raise DataError(
            f"partition.kind={settings.kind}: domain {samples.domain_names[empty[0]]!r} has no sample to train on, and "
            f"each domain has its own clients; add some, remove the domain, or use partition.kind=dirichlet"
        )
    return np.array_split(np.arange(clients), domains)
