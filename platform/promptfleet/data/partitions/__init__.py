"""Partition schemes, one file each.

``assign(samples, *, clients, settings, rng)`` returns the sample indices of every client, in client order. A new one is
a module here, a line in ``SCHEMES`` and its name in ``PartitionConfig.kind``.
"""

from collections.abc import Callable

import numpy as np

from promptfleet.data.partitions.dirichlet import assign as assign_dirichlet
from promptfleet.data.partitions.disjoint import assign as assign_disjoint
from promptfleet.data.partitions.domain import assign as assign_domain
from promptfleet.data.partitions.domain_dirichlet import assign as assign_domain_dirichlet
from promptfleet.data.partitions.iid import assign as assign_iid
from promptfleet.data.partitions.pathological import assign as assign_pathological
from promptfleet.data.partitions.quantity import assign as assign_quantity

SCHEMES: dict[str, Callable[..., list[np.ndarray]]] = {
    "iid": assign_iid,
    "dirichlet": assign_dirichlet,
    "pathological": assign_pathological,
    "disjoint": assign_disjoint,
    "quantity": assign_quantity,
    "domain": assign_domain,
    "domain_dirichlet": assign_domain_dirichlet,
}
