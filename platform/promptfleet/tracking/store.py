"""The embedded MLflow store: one SQLite file and one folder of artifacts under ``storage.path``."""

import json
import logging
import os
import shlex
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from urllib.request import url2pathname

from promptfleet.atomic_files import locked
from promptfleet.databases import sqlite_address
from promptfleet.errors import first_line
from promptfleet.escaping import encodable
from promptfleet.outages import cause, is_damage
from promptfleet.tracking.descriptions import EXPERIMENT_NOTE, NOTE_TAG
from promptfleet.tracking.errors import TrackingError
from promptfleet.tracking.outages import PATIENCE_S
from promptfleet.tracking.tracked_run import TrackedRun
from promptfleet.tracking.views import ALL_RUNS, KEYS, PARENT, SAVED, VIEW_TAG, View, all_runs_view

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

EXPERIMENT = "promptfleet"
DATABASE = "mlflow.db"
LOCK_FILE = "mlflow.lock"
_EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",
    NOTE_TAG: EXPERIMENT_NOTE,
    VIEW_TAG + ALL_RUNS: all_runs_view().to_json(),
}
KEY_TAG = "promptfleet.key"
KIND_TAG = "promptfleet.kind"
_PARENT_TAG = "mlflow.parentRunId"
SLOW_S = 5.0  # a lock that is held for longer than this is logged
_REPOSITORY = Path(__file__).resolve().parents[3]


class TrackingStore:
    """An open store. Runs are found by a key of ours, so a resumed federation continues its own run."""

    def __init__(self, path: Path, client: "MlflowClient", experiment_id: str):
        self.path = path
        self._client = client
        self._experiment_id = experiment_id

    @classmethod
    def open(cls, storage_path: str | Path) -> "TrackingStore":
        """Open the store under ``storage_path``, creating it on first use; any number of processes may do so at once.

        A store that was moved with its artifacts continues at its new place.

        Raises:
            TrackingError: the folder or database cannot be used, or has been moved away from its artifacts.
        """
        path = Path(storage_path).resolve()
        file = path / DATABASE
        address = sqlite_address(file)
        _quiet_mlflow()
        from alembic.util import CommandError
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            path.mkdir(parents=True, exist_ok=True)
            with _alone(path):
                _create_database(file)
                _follow(path)
                client = MlflowClient(tracking_uri=address)
                return cls(path, client, _experiment(client, path))
        except (OSError, sqlite3.Error, MlflowException, SQLAlchemyError, CommandError) as error:
            if isinstance(error, CommandError) or "database schema" in str(error):
                raise TrackingError(_other_version(file)) from error
            if is_damage(error):
                raise TrackingError(
                    f"{file} is damaged ({cause(error)}); move it away, and --resume writes the results on disk to a "
                    "new one"
                ) from error
            raise TrackingError(f"{file} cannot be used for tracking: {first_line(error)}") from error

    @property
    def uri(self) -> str:
        """Address of the store, MLflow's tracking URI."""
        return sqlite_address(self.path / DATABASE)

    @property
    def ui_command(self) -> str:
        """Command that shows this store in a browser, for the user to copy."""
        if Path.cwd() == _REPOSITORY and self.path == _REPOSITORY / "results":
            return "make ui"
        return shlex.join([sys.executable, str(_REPOSITORY / "jobs" / "ui.py"), str(self.path)])

    def ui_address(self, view: str, *, port: int = 5000) -> str:
        """Return the page of a view, while ``ui_command`` runs."""
        page = f"http://127.0.0.1:{port}/#/experiments/{self._experiment_id}/runs?workflowType=machine_learning"
        return f"{page}&viewStateShareKey={quote(view, safe='')}"

    def ui_hint(self, view: str) -> str:
        """Return a hint how to look at the runs: the command, and the page it serves."""
        return f"{self.ui_command}  ->  {self.ui_address(view)}"

    def save_view(self, view: View) -> None:
        """Make ``ui_address`` lead to this view."""
        self._client.set_experiment_tag(self._experiment_id, VIEW_TAG + view.name, view.to_json(saved=time.time()))

    def widen_view(self, name: str, make: Callable[[Sequence[str]], View], keys: Sequence[str]) -> None:
        """Save the view that ``make`` gives for these keys and the ones that it was saved with before."""
        with _alone(self.path):
            state = self._views().get(name, {})
            self.save_view(make(list(dict.fromkeys([*state.get(KEYS, ()), *keys]))))

    def newest_views(self, number: int) -> list[str]:
        """Return the names of at most ``number`` saved views, the last saved first, and of the view of all runs.

        Views of sweeps and comparisons that were deleted in MLflow are left out.
        """
        saved = self._views()
        newest = sorted(saved.keys() - {ALL_RUNS}, key=lambda name: -saved[name][SAVED])
        shown = (name for name in newest if not self._is_deleted(saved[name].get(PARENT)))
        return [*islice(shown, number), ALL_RUNS]

    def _is_deleted(self, run: str | None) -> bool:
        return run is not None and TrackedRun(self._client, run, is_new=False).is_deleted

    def _views(self) -> dict[str, dict[str, Any]]:
        """Return the state of each view that this program saved, by name."""
        tags = self._client.get_experiment(self._experiment_id).tags
        states = {name.removeprefix(VIEW_TAG): text for name, text in tags.items() if name.startswith(VIEW_TAG)}
        return {name: json.loads(text) for name, text in states.items() if f'"{SAVED}"' in text}

    def find_or_create_run(
        self, key: str, name: str, *, parent: str | None = None, tags: Mapping[str, str] | None = None
    ) -> TrackedRun:
        """Return the run with this key, set to RUNNING, or a new one named ``name``; ``tags`` are set on either.

        parent is the id of the run that this one is nested in. An experiment that was deleted in MLflow is restored.
        """
        with _alone(self.path):
            self._experiment_id = _experiment(self._client, self.path)
            found = self.find_run(key)
            if found is not None:
                found.set_tags(tags or {})
                found.set_status("RUNNING")
                return found
            nested = {_PARENT_TAG: parent} if parent else {}
            run = self._client.create_run(
                self._experiment_id, run_name=encodable(name), tags={**(tags or {}), **nested, KEY_TAG: key}
            )
            return TrackedRun(self._client, run.info.run_id, is_new=True)

    def find_run(self, key: str) -> TrackedRun | None:
        """Return the run with this key, as it is. Runs that were deleted in MLflow do not count."""
        run = next(self._search(f"tags.`{KEY_TAG}` = {_quoted(key)}"), None)
        return None if run is None else self._tracked(run)

    def running_children(self, parent: str) -> list[TrackedRun]:
        """Return the runs nested in the run with id ``parent`` that have not ended."""
        wanted = f"{_nested_in(parent)} and attributes.status = 'RUNNING'"
        return [self._tracked(run) for run in self._search(wanted)]

    def ended_children(self, parent: str) -> list[Mapping[str, str]]:
        """Return the tags of each run nested in ``parent`` that has ended."""
        wanted = f"{_nested_in(parent)} and attributes.status != 'RUNNING'"
        return [run.data.tags for run in self._search(wanted)]

    def adopt_children(self, before: str, parent: str) -> None:
        """Nest the runs of one parent in another, both given by their ids."""
        for run in self._search(_nested_in(before)):
            self._client.set_tag(run.info.run_id, _PARENT_TAG, parent)

    def _tracked(self, run: "Run") -> TrackedRun:
        return TrackedRun(self._client, run.info.run_id, is_new=False)

    def _search(self, wanted: str) -> "Iterator[Run]":
        token = None
        while True:
            page = self._client.search_runs([self._experiment_id], wanted, page_token=token)
            yield from page
            token = page.token
            if not token:
                return


def _quiet_mlflow() -> None:
    """Turn off telemetry, lines about migrations and progress bars, unless the user's environment sets them."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    import mlflow.store.db.utils

    mlflow.store.db.utils.MAX_RETRY_COUNT = 1  # or it waits for two minutes, and says nothing
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # ``outages`` reports an outage


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the store's lock, and log it if another process keeps it for long.

    Raises TimeoutError if that process does not give it back.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(path / LOCK_FILE, timeout_s=SLOW_S))
        except TimeoutError:
            logger.warning("tracking: another process holds %s; waiting for it", path / LOCK_FILE)
            try:
                stack.enter_context(locked(path / LOCK_FILE, timeout_s=PATIENCE_S))
            except TimeoutError:
                raise TimeoutError(f"another process holds {path / LOCK_FILE}") from None
        yield


def _other_version(file: Path) -> str:
    return (
        f"{file} was written by another version of MLflow than {version('mlflow')}: copy it, then run "
        f"{shlex.join([_mlflow(), 'db', 'upgrade', sqlite_address(file)])}, or install that version, or set "
        "storage.path to a new folder"
    )


def _mlflow() -> str:
    """Return the program of the MLflow that this process imports."""
    beside = Path(sys.executable).with_name("mlflow")
    return str(beside) if beside.exists() and shutil.which("mlflow") != str(beside) else "mlflow"


def _create_database(file: Path) -> None:
    """Make the schema under a temporary name: a process killed half-way through MLflow's migrations leaves nothing.

    Until then nothing needs to be safe on disk: without waiting for it the migrations take half the time or less.
    """
    if file.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    unfinished = file.with_name("mlflow.db.unfinished")
    for leftover in (unfinished, Path(f"{unfinished}-journal")):
        leftover.unlink(missing_ok=True)

    def hurry(connection: sqlite3.Connection, _record: object) -> None:
        if any(name == str(unfinished) for *_, name in connection.execute("PRAGMA database_list")):
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("PRAGMA journal_mode = MEMORY")

    event.listen(Engine, "connect", hurry)
    try:
        store = SqlAlchemyStore(sqlite_address(unfinished), _artifacts(file.parent))
    finally:
        event.remove(Engine, "connect", hurry)
    store.engine.dispose()
    with unfinished.open("rb") as database:
        os.fsync(database.fileno())
    os.replace(unfinished, file)


def _follow(path: Path) -> None:
    """Look for the artifacts in ``path``, unless they are where the store was before and not here."""
    here = _artifacts(path)
    with closing(sqlite3.connect(path / DATABASE)) as database, database:
        query = "SELECT artifact_location FROM experiments WHERE name = ?"
        (before,) = database.execute(query, [EXPERIMENT]).fetchone() or (here,)
        if before == here or (_folder(before).exists() and not (path / "mlartifacts").exists()):
            return
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            database.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                [here, len(before) + 1, len(before), before],
            )


def _experiment(client: "MlflowClient", path: Path) -> str:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return client.create_experiment(EXPERIMENT, artifact_location=_artifacts(path), tags=_EXPERIMENT_TAGS)
    if experiment.lifecycle_stage != "active":
        logger.warning("tracking: the experiment %s was deleted in MLflow; it is restored", EXPERIMENT)
        client.restore_experiment(experiment.experiment_id)
        _delete_replaced(client, experiment.experiment_id)
    if experiment.artifact_location != _artifacts(path):
        raise TrackingError(
            f"{path / DATABASE} keeps its artifacts in {experiment.artifact_location}, not in {_artifacts(path)}: "
            "it has been moved. Move it back, or set storage.path to a new folder"
        )
    for name, value in _EXPERIMENT_TAGS.items():
        if name not in experiment.tags:  # of an older store; a description of the user's own stays
            client.set_experiment_tag(experiment.experiment_id, name, value)
    return experiment.experiment_id


def _delete_replaced(client: "MlflowClient", experiment_id: str) -> None:
    """Delete again runs with a later one of the same key: restoring an experiment restores all of its runs."""
    keys, token = set(), ""
    while token is not None:
        page = client.search_runs([experiment_id], order_by=["attributes.start_time DESC"], page_token=token or None)
        for run in page:
            key = run.data.tags.get(KEY_TAG)
            if key in keys:
                client.delete_run(run.info.run_id)
            elif key is not None:
                keys.add(key)
        token = page.token or None


def _artifacts(path: Path) -> str:
    return (path / "mlartifacts").as_uri()


def _folder(artifacts: str) -> Path:
    """Return the folder of an address that ``_artifacts`` made."""
    return Path(url2pathname(artifacts.removeprefix("file://")))


def _nested_in(parent: str) -> str:
    return f"tags.`{_PARENT_TAG}` = {_quoted(parent)}"


def _quoted(value: str) -> str:
    """Return a string of MLflow's filter language, which has no escapes. Raises ValueError if that is impossible."""
    for mark in ("'", '"'):
        if mark not in value:
            return f"{mark}{value}{mark}"
    raise ValueError(f"a key of a run may hold ' or \" but not both, got {value!r}")
