"""Local folders with a copy at an address such as ``s3://bucket/prefix``, by pyarrow's file systems.

Work happens on a disk, since databases, mapped files and renames need one. The copy at the address is the one that
counts.
"""

import logging
import shutil
import sqlite3
import tempfile
import threading
import uuid
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import TypeVar

import pyarrow.fs as fs

from promptfleet.atomic_files import replacing
from promptfleet.config import StorageConfig
from promptfleet.errors import ConfigError, first_line
from promptfleet.outages import retried

PASSING = (".partial", ".unfinished", ".lock", "-journal", "-wal", "-shm")
FEATURES = "features"
NAMING = "*checkpoints/round-*.safetensors"  # each names files that have to exist: the last to come, the first to go
AT_ONCE = 16  # files that are fetched side by side
CHUNK = 2**24
RETRY_S = 2.0

T = TypeVar("T")
Stamp = tuple[int, int]  # a file's size and time

logger = logging.getLogger(__name__)


class RemoteFolder:
    """A local folder and its copy in remote storage, below the address of ``storage``.

    Raises:
        OSError: by each method, if the address or this machine's disk refuses.
        ConfigError: by each method, if there is no such kind of address.
    """

    def __init__(self, storage: StorageConfig, folder: Path):
        self.address, self.folder = storage.address, folder
        self._below = folder.relative_to(storage.folder).parts
        self.sent: dict[str, Stamp] = {}  # local stamps of the files that are equal on both sides

    def pull(self, *, without: Collection[str] = ()) -> None:
        """Make the folder equal to its copy, ``without`` names that match one of these patterns."""
        names = [name for name in self._names_there() if _counts(name, without)]
        for name in sorted(self._files_here(without).keys() - set(names), reverse=True):
            (self.folder / name).unlink()
        naming = [name for name in names if fnmatchcase(name, NAMING)]
        with ThreadPoolExecutor(AT_ONCE) as threads:
            list(threads.map(self.fetch, set(names) - set(naming)))
            list(threads.map(self.fetch, naming))

    def push(self, *, without: Collection[str] = (), meanwhile: Callable[[], None] = lambda: None) -> None:
        """Upload the changed files of the folder, ``without`` names that match one of these patterns.

        Databases are copied first, each as between two transactions, and uploaded after everything else but features:
        they never refer to a file that is missing there. Nor do checkpoints, whose names follow those of private states
        in the alphabet. meanwhile is called between two pieces and raises nothing.
        """
        found = self._files_here(without)
        changed = sorted((name for name, stamp in found.items() if self.sent.get(name) != stamp), key=_turn)
        with tempfile.TemporaryDirectory() as folder:
            contents = {name: self._content(name, Path(folder)) for name in changed}
            for name, content in contents.items():
                try:
                    if not self._has(name, content):
                        self._send(content, name, meanwhile)
                except FileNotFoundError:
                    if content.exists():
                        raise
                    continue  # removed meanwhile
                self.sent[name] = found[name]

    def push_file(self, name: str) -> None:
        """Upload one file, a database as in ``push``."""
        with tempfile.TemporaryDirectory() as folder:
            self._send(self._content(name, Path(folder)), name)

    def drop(self) -> None:
        """Delete the copies of files that were removed here since ``pull`` and ``push``."""
        for name in sorted(self.sent.keys() - self._files_here().keys(), reverse=True):
            self.delete(name)
            del self.sent[name]

    def fetch(self, name: str) -> None:
        """Download one file, if it is there."""
        path = self.folder / name
        try:
            source = self._there[0].open_input_stream(self._path(name))
        except FileNotFoundError:
            return
        with source, replacing(path) as partial, open(partial, "wb") as file:
            shutil.copyfileobj(source, file, CHUNK)
        self.sent[name] = _stamp(path)

    def read(self, name: str) -> bytes | None:
        """Return the content of one file at the address, None if it is missing."""
        try:
            with self._there[0].open_input_stream(self._path(name)) as stream:
                return stream.read()
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Write one file at the address only, not in the folder."""
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "content").write_bytes(content)
            self._send(Path(folder) / "content", name)

    def delete(self, name: str) -> None:
        self._there[0].delete_file(self._path(name))

    @cached_property
    def _there(self) -> tuple[fs.FileSystem, str]:
        """Return the file system, and the folder's path in it."""
        try:
            system, root = fs.FileSystem.from_uri(self.address)
        except ValueError as error:
            raise ConfigError(f"storage.path={self.address}: no such kind of address ({first_line(error)})") from None
        return system, "/".join([root.rstrip("/"), *self._below])

    def _path(self, name: str) -> str:
        return f"{self._there[1]}/{name}"

    def _names_there(self) -> list[str]:
        system, root = self._there
        found = system.get_file_info(fs.FileSelector(root, recursive=True, allow_not_found=True))
        return [info.path.removeprefix(f"{root}/") for info in found if info.type == fs.FileType.File]

    def _files_here(self, without: Collection[str] = ()) -> dict[str, Stamp]:
        found = {}
        for path in self.folder.rglob("*"):
            name = path.relative_to(self.folder).as_posix()
            if _counts(name, without) and path.is_file():
                try:
                    found[name] = _stamp(path)
                except FileNotFoundError:
                    continue  # removed meanwhile
        return found

    def _content(self, name: str, temporary: Path) -> Path:
        """Return a file with the content of ``name`` that does not change during an upload."""
        path = self.folder / name
        return _still(path, temporary / f"{uuid.uuid4().hex}.db") if path.suffix == ".db" else path

    def _has(self, name: str, content: Path) -> bool:
        """Return True if the address has a file of features, which never changes under its name."""
        if not name.startswith(f"{FEATURES}/"):
            return False
        info = self._there[0].get_file_info(self._path(name))
        return info.type == fs.FileType.File and info.size == content.stat().st_size

    def _send(self, content: Path, name: str, meanwhile: Callable[[], None] = lambda: None) -> None:
        system, path = self._there[0], self._path(name)
        target = path
        if isinstance(system, fs.LocalFileSystem):  # elsewhere there are no folders, and no half files
            system.create_dir(path.rpartition("/")[0], recursive=True)
            target = f"{path}.{uuid.uuid4().hex}.partial"
        with open(content, "rb") as file, system.open_output_stream(target) as stream:
            while chunk := file.read(CHUNK):
                stream.write(chunk)
                meanwhile()
        if target != path:
            system.move(target, path)


def remote_folder(storage: StorageConfig, folder: Path) -> RemoteFolder | None:
    """Return ``folder`` with its copy; None without one: ``storage`` is no address, or the folder is elsewhere."""
    if storage.address is None or storage.folder not in [folder, *folder.parents]:
        return None
    return RemoteFolder(storage, folder)


def fetch_missing(storage: StorageConfig, path: Path) -> None:
    """Download the file from the address of ``storage``, if that has it and this machine does not."""
    remote = remote_folder(storage, path.parent)
    if remote is not None and not path.exists():
        until_it_answers(lambda: remote.fetch(path.name), remote.address)


def bring_file(storage: StorageConfig, path: Path) -> None:
    """Upload the file to the address of ``storage``, if there is one."""
    remote = remote_folder(storage, path.parent)
    if remote is not None:
        until_it_answers(lambda: remote.push_file(path.name), remote.address)


def until_it_answers(job: Callable[[], T], address: str, give_up: threading.Event | None = None) -> T:
    """Retry ``job`` until remote storage answers, and return its result; log when the outage starts and ends.

    Raises OSError only after ``give_up``.
    """
    stop = give_up or threading.Event()
    return retried(
        job,
        passes=lambda error: isinstance(error, OSError),
        may_wait=lambda seconds: not stop.is_set(),
        wait=stop.wait,
        begins=lambda error: logger.warning(
            "%s cannot be used (%s); trying again until it can", address, first_line(error)
        ),
        ends=lambda: logger.warning("%s can be used again", address),
        waits_s=repeat(RETRY_S),
    )


def _counts(name: str, without: Collection[str]) -> bool:
    last = name.rpartition("/")[2]
    passing = last.startswith(".") or last.endswith(PASSING)
    return not passing and not any(fnmatchcase(name, pattern) for pattern in without)


def _turn(name: str) -> tuple[int, str]:
    """Return the turn of a file: databases after files, and features, which are large, last."""
    return 2 if name.startswith(f"{FEATURES}/") else int(name.endswith(".db")), name


def _stamp(path: Path) -> Stamp:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _still(path: Path, copy: Path) -> Path:
    """Return a copy of a database as between two transactions, also while another process writes to it."""
    try:
        with (
            closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as live,
            closing(sqlite3.connect(copy)) as one,
        ):
            live.backup(one)
    except sqlite3.Error as error:
        raise OSError(f"{path}: {error}") from None
    return copy
