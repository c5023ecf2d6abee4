"""Folder of a federation on disk: its result and its checkpoints, written while the next round computes."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from promptfleet.atomic_files import locked, replacing
from promptfleet.config import FederationConfig, StorageConfig, fingerprint_of, merge
from promptfleet.disks import disk_errors, storage_error
from promptfleet.errors import DataError, StorageError
from promptfleet.federation.checkpoints.checkpoint import load_checkpoint, load_snapshot, save_snapshot
from promptfleet.federation.checkpoints.files import DamagedCheckpoint, newest_round, remove_unfinished
from promptfleet.federation.checkpoints.private_states import NO_STATES
from promptfleet.federation.failures import StatesLost
from promptfleet.federation.reports import (
    Event,
    FederationResult,
    FederationSummary,
    last_evaluated,
    summary_from_json,
)
from promptfleet.federation.rounds import Federation, Snapshot
from promptfleet.storage.remote import remote_folder, until_it_answers

RESULT_FILE = "result.json"
LOCK_FILE = "in-use.lock"
LET_GO_S = 60.0  # for the process of a killed driver to end

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Written:
    """One checkpoint on disk: its file, the bytes that were written for it, and the seconds of its writing."""

    path: Path
    bytes: int
    seconds: float

    def told_by(self, result: FederationResult) -> FederationResult:
        """Return the result with these figures in it."""
        return replace(result, checkpoint_bytes=self.bytes, checkpoint_seconds=self.seconds)


class FederationFolder:
    """Writer of a federation's checkpoint and result after its rounds, in an extra thread and as the only process.

    One round is written at a time: ``save`` waits for the one before, so no more than the last round can be lost. A
    disk that refuses costs no round: earlier checkpoints stay, and the next round is written again. If ``storage.path``
    is an address with this folder, its content there is used, and a round counts as written once it is there, too.

    Raises on construction:
        DataError: another process is at work in the folder.
        StorageError: the folder cannot be made or read.
    """

    def __init__(self, folder: str | Path, federation: Federation):
        self._folder, self._federation = Path(folder), federation
        self._made = [path for path in (self._folder, *self._folder.parents) if not os.path.lexists(path)]
        self._lock = ExitStack()
        self._lock.enter_context(alone_in(self._folder, timeout_s=LET_GO_S, on_wait=self._tell_of_other))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="promptfleet-checkpoint")
        self._writing: Future[Written] | None = None
        self._states = NO_STATES  # private states on disk, as the last checkpoint that was written or read names them
        self.last: Written | None = None
        self.rounds_saved = 0  # rounds given to ``save``; the writing may have failed
        self._remote = remote_folder(federation.config.storage, self._folder)
        self._closing = threading.Event()
        if self._remote:
            self._on_remote(self._remote.pull)
        with disk_errors():
            remove_unfinished(folder)

    def restore(self) -> int:
        """Resume from the newest checkpoint, if there is any; returns the rounds done. Raises as ``load_snapshot``.

        The rounds are saved again, since the result may be a round behind, or missing.
        """
        snapshot = self.newest()
        if snapshot is not None:
            self._federation.restore(snapshot)
            self.save()
        return self._federation.rounds_done

    def newest(self) -> Snapshot | None:
        """Return the newest checkpoint, after waiting for one that is being written. Raises as ``load_snapshot``."""
        self.wait()
        config = self._federation.config
        loaded = load_checkpoint(self._folder, config.fingerprint(), config.clients)
        self._states = loaded.states if loaded else NO_STATES
        return loaded and loaded.snapshot

    def save(self) -> None:
        """Write the rounds so far; returns as soon as the round before is written."""
        self.wait()
        self.rounds_saved = self._federation.rounds_done
        snapshot = self._federation.take_snapshot()
        self._writing = self._thread.submit(self._write, snapshot)

    def wait(self) -> Exception | None:
        """Wait until the last round is written; return the error if it was not, which is an event of the next round."""
        writing, self._writing = self._writing, None
        if writing is None:
            return None
        try:
            self.last = writing.result()
        except (OSError, StorageError, StatesLost) as error:
            event = Event("checkpoint", [], f"could not be written ({error})", "kept the one before")
            logger.warning("%s", event)
            self._federation.record(event)
            return error
        return None

    def flush(self) -> None:
        """Wait likewise after the last round. Raises DataError: it could not be written."""
        error = self.wait()
        if error is None:
            return
        where = f"{self._folder}: round {self._federation.rounds_done}"
        if isinstance(error, OSError):
            raise storage_error(error, where, doing="written") from error
        raise DataError(f"{where}: cannot be written ({error})")

    def bring(self) -> None:
        """Make the copy at the folder's address, if it has one, equal to the folder."""
        if self._remote:
            self._on_remote(self._remote.push)
            self._on_remote(self._remote.drop)

    def close(self) -> None:
        """Wait for a running write, but not for an address that does not answer; leave no empty folder."""
        self._closing.set()
        self._thread.shutdown()
        self._lock.close()
        for path in self._made:
            with suppress(OSError):
                path.rmdir()

    def result(self) -> FederationResult:
        """Return the result of the rounds so far, with the figures of their checkpoint."""
        result = self._federation.result()
        return result if self.last is None else self.last.told_by(result)

    def _write(self, take: Callable[[], Snapshot]) -> Written:
        started = time.perf_counter()
        snapshot, config = take(), self._federation.config
        saved = save_snapshot(
            self._folder, snapshot, config.fingerprint(), keep=config.checkpoints.keep, known=self._states
        )
        self._states = saved.states
        written = Written(saved.path, saved.bytes, time.perf_counter() - started)
        if last_evaluated(snapshot.reports):
            with replacing(self._folder / RESULT_FILE) as partial:
                partial.write_text(written.told_by(self._federation.result(snapshot)).to_json())
        logger.debug("%s: %d bytes in %.3f s", written.path, written.bytes, written.seconds)
        self.bring()
        return written

    def _on_remote(self, job: Callable[[], None]) -> None:
        until_it_answers(job, self._remote.address, self._closing)

    def _tell_of_other(self) -> None:
        logger.info("%s: waiting for another process that is at work there to end", self._folder)


@contextmanager
def alone_in(folder: Path, *, timeout_s: float, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Be the only process at work in ``folder``; ``on_wait`` is called before waiting for another one to end.

    Raises:
        DataError: it has not after ``timeout_s``.
        StorageError: the folder cannot be made, or written.
    """
    with ExitStack() as alone:
        try:
            with disk_errors():
                alone.enter_context(locked(folder / LOCK_FILE, on_wait, timeout_s=timeout_s))
        except TimeoutError:
            raise DataError(f"{folder}: another process is at work there; wait for it, or end it") from None
        yield


def bring_result(folder: Path, storage: StorageConfig) -> None:
    """Download the result and checkpoints of a federation that has ended, also if another node ran it."""
    remote = remote_folder(storage, folder)

    def bring() -> None:
        path = folder / RESULT_FILE
        here = path.read_bytes() if path.exists() and newest_round(folder) is not None else None
        if remote.read(RESULT_FILE) != here:
            remote.pull()

    if remote:
        until_it_answers(bring, remote.address)


def load_summary(folder: Path, fingerprint: str) -> FederationSummary | None:
    """Return the result of the rounds so far, None if no round was evaluated; reads no states, hence cheap.

    Raises:
        StorageError: if the disk does not give the file.
        DataError: if the file is damaged, or of a federation with another configuration.
    """
    path = folder / RESULT_FILE
    try:
        with disk_errors(path, doing="read"):
            try:
                text = path.read_bytes()
            except FileNotFoundError:
                return None
        summary = summary_from_json(text)
        found = {fingerprint_of(summary.config), fingerprint_of(merge(FederationConfig().to_dict(), summary.config))}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path}: damaged ({type(error).__name__}: {error})") from None
    if fingerprint not in found:  # the second one is of a result that is older than some keys
        raise DataError(f"{path}: the result of a federation with another configuration")
    return summary


def load_result(folder: Path, fingerprint: str) -> FederationResult | None:
    """Return the same with the states, from the checkpoint of the same round; None if no such one is usable.

    Raises as ``load_summary`` and ``load_snapshot`` do, but not for damaged checkpoints.
    """
    summary = load_summary(folder, fingerprint)
    try:
        snapshot = load_snapshot(folder, fingerprint)
    except DamagedCheckpoint as error:
        logger.warning("%s", error)
        return None
    if summary is None or snapshot is None or len(snapshot.reports) != len(summary.rounds):
        return None
    return FederationResult.of(summary, snapshot.server, snapshot.privates)
