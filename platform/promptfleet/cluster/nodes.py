"""Resources of the machines of a cluster."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Node:
    """Resources of one machine of the cluster; ``has_storage``: it has the files under ``storage.path``.

    ``gpu_bytes`` is the memory of its smallest GPU, 0 where that is not known.
    """

    cpus: float
    gpus: float
    address: str = "127.0.0.1"
    has_storage: bool = True
    gpu_bytes: int = 0
