"""Files of one node on the others: copied once to each node, and mapped there by all of its processes.

A node's copies are in a folder of temporary files with a known name, so that later jobs find them. The folder is used
only if no other user can have put anything there, and a copy only if its size and checksum are right.
"""

import os
import stat
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from promptfleet.atomic_files import locked, replacing
from promptfleet.data.feature_store import open_features
from promptfleet.disks import disk_errors
from promptfleet.errors import DataError

CHUNK = 2**26


@dataclass(frozen=True)
class NodeFile:
    """A file of a feature store, on the node with id ``node``; without a node, on all of them.

    ``bytes`` and ``written_ns`` distinguish its copies from those of an earlier file of that name. ``token`` names a
    folder that no other user could prepare, for nodes where the usual one is not this user's alone.
    """

    path: str
    node: str | None
    bytes: int
    written_ns: int
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    @classmethod
    def of(cls, path: Path, node: str | None) -> "NodeFile":
        stat = path.stat()
        return cls(str(path.absolute()), node, stat.st_size, stat.st_mtime_ns)

    def here(self) -> Path:
        """Return the file's path on this node. The first process of the node copies it, and the others wait for that.

        Raises:
            DataError: this node's disk refuses, or the file has changed.
        """
        if self.node in (None, ray.get_runtime_context().get_node_id()):
            return Path(self.path)
        original, address = Path(self.path), ray.util.get_node_ip_address()
        with disk_errors(f"node {address}: {tempfile.gettempdir()}"):
            copy = copies_folder(self.token) / f"{original.stem}-{self.written_ns:x}{original.suffix}"
        with disk_errors(f"node {address}: {copy}"), locked(copy.with_suffix(".lock")):
            if not self._is_whole(copy):
                with replacing(copy) as partial, open(partial, "wb") as file:
                    file.writelines(self._chunks())
                if not self._is_whole(copy):
                    raise DataError(f"node {address}: {copy} is not what was copied; look after the node's disk")
        return copy

    def _is_whole(self, copy: Path) -> bool:
        try:
            if os.lstat(copy).st_size != self.bytes:
                return False
            open_features(copy)
        except (FileNotFoundError, DataError):
            return False
        return True

    def _chunks(self) -> Iterator[bytes]:
        """Yield the file's content, read on its own node."""
        strategy = NodeAffinitySchedulingStrategy(self.node, soft=False)
        read = ray.remote(_read).options(num_cpus=0, scheduling_strategy=strategy)
        for start in range(0, self.bytes, CHUNK):
            size = min(CHUNK, self.bytes - start)
            chunk = ray.get(read.remote(self.path, start, size))
            if len(chunk) != size:
                raise DataError(f"{self.path}: has changed while it was copied to another node")
            yield chunk


def copies_folder(token: str) -> Path:
    """Return this node's folder of copies: the usual one, or one named after ``token``. Raises DataError: unsafe.

    Raises OSError: a folder cannot be made.
    """
    usual = Path(tempfile.gettempdir()) / f"promptfleet-{os.getuid()}"
    for folder in (usual, usual.with_name(f"{usual.name}-{token}")):
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        if _is_private(folder):
            (folder / "copies").mkdir(exist_ok=True)
            return folder / "copies"
    raise DataError(f"{usual}: is not a folder of this user alone; remove it, or set TMPDIR to another folder")


def _is_private(folder: Path) -> bool:
    """Return True if no other user can have put anything there; takes away other users' rights."""
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        return False
    folder.chmod(0o700)
    return True


def _read(path: str, start: int, size: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(size)
