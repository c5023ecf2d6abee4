"""Files of one node on the others: copied once to each, and mapped there by every process that wants them."""

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from promptfleet.atomic_files import locked, replacing
from promptfleet.errors import DataError

CHUNK = 2**26


@dataclass(frozen=True)
class NodeFile:
    """A file that does not change, on the node with id ``node``; without one every node has it.

    ``bytes`` and ``written_ns`` tell its copies from those of another one that had the same name.
    """

    path: str
    node: str | None
    bytes: int
    written_ns: int

    @classmethod
    def of(cls, path: Path, node: str | None) -> "NodeFile":
        stat = path.stat()
        return cls(str(path.absolute()), node, stat.st_size, stat.st_mtime_ns)

    def here(self) -> Path:
        """Where this node has it. Of the node's processes the first one copies it, and the others wait for that.

        Raises:
            DataError: this node's disk refuses, or the file has changed.
        """
        if self.node in (None, ray.get_runtime_context().get_node_id()):
            return Path(self.path)
        original = Path(self.path)
        copy = copies_folder() / f"{original.stem}-{self.written_ns:x}{original.suffix}"
        try:
            with locked(copy.with_suffix(".lock")):
                if not copy.exists():
                    with replacing(copy) as partial, open(partial, "wb") as file:
                        file.writelines(self._chunks())
        except OSError as error:
            address = ray.util.get_node_ip_address()
            raise DataError(f"node {address}: {copy} cannot be written ({error.strerror or error})") from None
        return copy

    def _chunks(self) -> Iterator[bytes]:
        """The file's content, read on its own node."""
        strategy = NodeAffinitySchedulingStrategy(self.node, soft=False)
        read = ray.remote(_read).options(num_cpus=0, scheduling_strategy=strategy)
        for start in range(0, self.bytes, CHUNK):
            size = min(CHUNK, self.bytes - start)
            chunk = ray.get(read.remote(self.path, start, size))
            if len(chunk) != size:
                raise DataError(f"{self.path}: has changed while it was copied to another node")
            yield chunk


def copies_folder() -> Path:
    """Where this node keeps copies."""
    return Path(tempfile.gettempdir()) / f"promptfleet-{os.getuid()}" / "copies"


def _read(path: str, start: int, size: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(size)
