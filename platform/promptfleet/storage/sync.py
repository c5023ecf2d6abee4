"""Results at an address: downloaded when a job starts, uploaded as they are written."""

import json
import logging
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from promptfleet.atomic_files import locked, replacing
from promptfleet.config import StorageConfig
from promptfleet.errors import ConfigError, DataError, first_line
from promptfleet.storage.lease import RENEW_S, Lease
from promptfleet.storage.remote import FEATURES, RemoteFolder, until_it_answers
from promptfleet.strict_json import Count, parse_json

NOTES = ".home.json"  # in the working folder: its name, and the files that are at the address
CHECKPOINTS = "*/checkpoints/*.safetensors"
NOT_FETCHED = [f"{FEATURES}/*", CHECKPOINTS]  # unless they are needed
NOT_BROUGHT = ["*/study.db", CHECKPOINTS]  # not uploaded here, since their writers do it at once
NEITHER = ["*/*/tune/*", f"{FEATURES}/*.encoding/*"]  # Tune's notes, and images half encoded
ANSWER_S = 60.0  # some file systems of pyarrow's try for a quarter of an hour
SHARE = 0.2  # largest share of the time that is spent on uploads

logger = logging.getLogger(__name__)


@contextmanager
def synced_storage(storage: StorageConfig) -> Iterator[None]:
    """Download the results at the address of ``storage`` into its folder, and upload new ones during the block.

    Without an address this does nothing. A working folder that is older than the address is set aside. The end of the
    block waits until everything is uploaded, however long that takes.

    >>> import promptfleet
    >>> storage = promptfleet.StorageConfig(path="results")  # or an address, such as s3://bucket/prefix
    >>> with promptfleet.synced_storage(storage):
    ...     print(storage.folder)
    results

    Raises:
        ConfigError: the address cannot be used when the block begins.
        DataError: another job works there; or has taken it over, which is raised when the block ends.
    """
    if storage.address is None:
        yield
        return
    with ExitStack() as ours:
        try:
            ours.enter_context(locked(storage.folder.with_suffix(".lock"), timeout_s=0.0))
        except TimeoutError:
            raise DataError(f"storage.path={storage.address}: another job of this machine is at work there") from None
        except OSError as error:
            raise ConfigError(f"{storage.folder}: cannot be worked in ({first_line(error)})") from None
        try:
            home = _Home(storage)
            home.move_in()
        except OSError as error:
            raise ConfigError(f"storage.path={storage.address}: cannot be used ({first_line(error)})") from None
        ours.enter_context(home.kept())
        yield


class _Home:
    def __init__(self, storage: StorageConfig):
        self._storage = storage
        self._notes = storage.folder / NOTES
        self._remote = RemoteFolder(storage, storage.folder)
        self._known = _read_notes(self._notes)
        self._name = self._known.name if self._known else uuid.uuid4().hex
        self._lease = Lease(self._remote, self._name)
        self._lost: Exception | None = None

    def move_in(self) -> None:
        """Take the lease, and make the working folder equal to its copy at the address."""
        _within(ANSWER_S, lambda: self._remote.read(NOTES))
        last, folder = self._lease.take(), self._storage.folder
        logger.info("%s: working in %s", self._storage.address, folder)
        if self._known and last == self._name:  # the folder has all of its copy, and maybe more
            self._remote.sent = dict(self._known.sent)
            return
        if folder.exists():
            old = folder.with_suffix(".old")
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
            logger.warning("another machine has continued since; the files from here are now in %s", old)
        folder.mkdir(parents=True)
        self._remote.pull(without=[*NOT_FETCHED, *NEITHER])
        self._note()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Upload new files in an extra thread; on leaving, wait for the last upload and return the lease."""
        over = threading.Event()
        thread = threading.Thread(target=self._keep, args=(over,), name="promptfleet-home", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
        if self._lost is not None:
            raise self._lost

    def _keep(self, over: threading.Event) -> None:
        try:
            while not over.is_set():
                started = time.monotonic()
                until_it_answers(self._bring, self._storage.address)
                next_time = started + (time.monotonic() - started) / SHARE
                while not over.wait(RENEW_S) and time.monotonic() < next_time:
                    until_it_answers(self._lease.renew, self._storage.address)
            until_it_answers(self._bring, self._storage.address)
            until_it_answers(self._lease.leave, self._storage.address)
        except Exception as error:
            logger.warning("%s; what this job does from now on is in %s alone", error, self._storage.folder)
            self._lost = error

    def _bring(self) -> None:
        before = dict(self._remote.sent)
        self._lease.renew()
        self._remote.push(without=[*NOT_BROUGHT, *NEITHER], meanwhile=self._renew_meanwhile)
        if self._remote.sent != before:
            self._note()

    def _renew_meanwhile(self) -> None:
        try:
            self._lease.renew()
        except (OSError, DataError):
            return  # the next upload will find it

    def _note(self) -> None:
        with replacing(self._notes) as partial:
            partial.write_text(json.dumps({"name": self._name, "sent": self._remote.sent}))


@dataclass(frozen=True)
class _Notes:
    """Name of the working folder, and stamps of the files at the address, as they were here then."""

    name: str
    sent: dict[str, tuple[Count, Count]]


def _read_notes(path: Path) -> _Notes | None:
    """Return the notes; None if they are missing or damaged: the address then counts."""
    try:
        return parse_json(_Notes, path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        logger.warning("%s: damaged (%s); using the files at the address", path, error)
        return None


def _within(seconds: float, job: Callable[[], object]) -> None:
    """Run ``job`` in a thread that is abandoned after this time. Raises the job's error, or OSError then."""
    done: Future[object] = Future()

    def run() -> None:
        try:
            done.set_result(job())
        except Exception as error:
            done.set_exception(error)

    threading.Thread(target=run, name="promptfleet-home-asked", daemon=True).start()
    if not wait([done], timeout=seconds).done:
        raise OSError(f"no answer within {seconds:.0f} s")
    done.result()
