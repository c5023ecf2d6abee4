"""A second copy of ``storage.path`` at an address such as ``s3://bucket/folder``, for another machine to go on from.

The folder stays what is worked in and what counts: it has databases and mapped files, which no object store can hold.
"""

import logging
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pyarrow.fs as fs

from promptfleet.atomic_files import replacing
from promptfleet.config import StorageConfig
from promptfleet.errors import ConfigError

PAUSE_S = 20.0
MADE_AGAIN = ("features", "tune")  # folders of what can be computed again, and of Tune's own notes
PASSING = (".partial", ".lock", "-journal", "-wal", "-shm")

logger = logging.getLogger(__name__)


@contextmanager
def copied(storage: StorageConfig) -> Iterator[None]:
    """Copy what is new under ``storage.path`` to ``storage.copy_to``, if there is one: now and then, and at the end.

    That an address refuses later on is told on the log, and it is tried again.

    Raises:
        ConfigError: it cannot be written when the block begins.
    """
    if storage.copy_to is None:
        yield
        return
    copy, over = StorageCopy(storage), threading.Event()
    copy.check()
    thread = threading.Thread(target=_keep_copying, args=(copy, over), name="promptfleet-storage-copy", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def fetch_copy(storage: StorageConfig) -> int:
    """Bring what is at ``storage.copy_to`` and not under ``storage.path``; returns the files. Raises ConfigError."""
    return 0 if storage.copy_to is None else StorageCopy(storage).fetch()


class StorageCopy:
    """What is under ``storage.path`` and what of it is at ``storage.copy_to``. Raises ConfigError: no such address."""

    def __init__(self, storage: StorageConfig):
        self._address, self._folder = storage.copy_to, Path(storage.path).absolute()
        self._copied: dict[str, tuple[int, int]] = {}
        try:
            self._there, self._root = fs.FileSystem.from_uri(self._address)
        except (OSError, ValueError) as error:
            raise self._refused(error) from None

    def check(self) -> None:
        """Raise ConfigError if nothing can be written there."""
        try:
            self._write(b"", ".reachable")
            self._there.delete_file(f"{self._root}/.reachable")
        except OSError as error:
            raise self._refused(error) from None

    def push(self) -> int:
        """Copy what has changed since the last call, remove what is gone; returns how many files. Raises OSError.

        Databases go first, so that the copy of a study never knows of a round whose checkpoint is not copied.
        """
        found = self._files()
        changed = [name for name, state in found.items() if self._copied.get(name) != state]
        for name in sorted(changed, key=lambda name: not name.endswith(".db")):
            try:
                self._write(_content(self._folder / name), name)
            except FileNotFoundError:
                continue  # an older checkpoint, removed meanwhile
            self._copied[name] = found[name]
        for name in self._copied.keys() - found.keys():
            self._there.delete_file(f"{self._root}/{name}")
            del self._copied[name]
        return len(changed)

    def fetch(self) -> int:
        """As ``fetch_copy``."""
        try:
            there = self._there.get_file_info(fs.FileSelector(self._root, recursive=True, allow_not_found=True))
            names = [info.path.removeprefix(f"{self._root}/") for info in there if info.type == fs.FileType.File]
            missing = [name for name in names if not (self._folder / name).exists()]
            for name in missing:
                with (
                    self._there.open_input_stream(f"{self._root}/{name}") as source,
                    replacing(self._folder / name) as partial,
                    open(partial, "wb") as file,
                ):
                    shutil.copyfileobj(source, file)
        except OSError as error:
            raise self._refused(error) from None
        return len(missing)

    def _files(self) -> dict[str, tuple[int, int]]:
        """Size and time of each file that is copied, by its name under the folder."""
        found = {}
        for path in self._folder.rglob("*"):
            name = path.relative_to(self._folder)
            if path.name.endswith(PASSING) or path.name.startswith(".") or set(MADE_AGAIN) & set(name.parts[:-1]):
                continue
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            if path.is_file():
                found[name.as_posix()] = stat.st_size, stat.st_mtime_ns
        return found

    def _write(self, content: bytes, name: str) -> None:
        path = f"{self._root}/{name}"
        if isinstance(self._there, fs.LocalFileSystem):  # the others have no folders
            self._there.create_dir(path.rpartition("/")[0], recursive=True)
        with self._there.open_output_stream(path) as stream:
            stream.write(content)

    def _refused(self, error: Exception) -> ConfigError:
        reason = str(error).strip().splitlines()[0]
        return ConfigError(f"storage.copy_to={self._address}: cannot be used ({reason})")


def _content(path: Path) -> bytes:
    """Of a database as it is between two transactions, whoever writes to it."""
    if path.suffix != ".db":
        return path.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        still = Path(folder) / path.name
        uri = f"{path.as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as live, closing(sqlite3.connect(still)) as target:
            live.backup(target)
        return still.read_bytes()


def _keep_copying(copy: StorageCopy, over: threading.Event) -> None:
    while True:
        last = over.wait(PAUSE_S)
        started = time.monotonic()
        try:
            files = copy.push()
            logger.debug("copied %d files in %.1f s", files, time.monotonic() - started)
        except (OSError, sqlite3.Error) as error:
            logger.warning("storage.copy_to: not copied (%s)%s", error, "" if last else "; trying again")
        if last:
            return
