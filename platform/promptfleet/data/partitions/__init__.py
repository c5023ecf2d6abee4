"""Partition schemes, one file each.

``assign(labels, *, classes, clients, settings, rng)`` returns the sample indices of every client, in client order.
"""

from promptfleet.data.partitions.dirichlet import assign as assign_dirichlet
from promptfleet.data.partitions.iid import assign as assign_iid
from promptfleet.data.partitions.pathological import assign as assign_pathological

__all__ = ["assign_dirichlet", "assign_iid", "assign_pathological"]
