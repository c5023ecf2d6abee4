"""The database of a study: used with patience, and told apart from one that has lost something."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import optuna
from sqlalchemy.exc import SQLAlchemyError

from promptfleet.databases import sqlite_address
from promptfleet.errors import DataError
from promptfleet.search.folders import trial_numbers
from promptfleet.tracking.outages import cause, is_damage, is_outage, persistently

FILE = "study.db"
STUDY = "sweep"
PATIENCE_S = 600.0  # with a full disk or a locked database
BUSY_S = 5.0  # of that, what SQLite itself waits for a lock at a time

T = TypeVar("T")


class DamagedStudy(DataError):
    """A study whose database cannot be read, or lacks trials that have been run."""

    def __init__(self, path: Path, why: str):
        kept = len(list(path.parent.glob("trials/*/result.json")))
        saved = f"{kept} of its trials have their results on disk: give --rebuild-study with --resume to use them"
        super().__init__(f"the study {path} is damaged ({why}); {saved}")


class StudyFile:
    """An Optuna study in ``folder``, new or continued. An access that fails is repeated for up to ten minutes.

    Raises:
        DamagedStudy: the database is not what was written.
        DataError: it cannot be used for ten minutes, or is of another version of Optuna.
    """

    def __init__(self, folder: Path):
        self.path = folder.absolute() / FILE
        self.failure: DataError | None = None  # the last one
        self.study: optuna.Study = self.patiently(self._open)

    def patiently(self, access: Callable[[], T]) -> T:
        """Return what ``access`` gives, which is safe to repeat. Raises DataError, also kept as ``failure``."""
        store = f"the study {self.path}"
        try:
            return persistently(access, store=store, patience_s=PATIENCE_S)
        except Exception as error:
            if is_damage(error):
                self.failure = DamagedStudy(self.path, cause(error))
            elif is_outage(error):
                self.failure = DataError(f"{store} cannot be used ({cause(error)}); --resume goes on once it can")
            else:
                raise
            raise self.failure from None

    def _open(self) -> optuna.Study:
        if self.path.exists():
            self._check()
        try:
            study = optuna.create_study(
                study_name=STUDY,
                storage=optuna.storages.RDBStorage(
                    sqlite_address(self.path), engine_kwargs={"connect_args": {"timeout": BUSY_S}}
                ),
                direction="maximize",
                load_if_exists=True,
                pruner=optuna.pruners.NopPruner(),
            )
        except (SQLAlchemyError, optuna.exceptions.OptunaError, RuntimeError) as error:  # RuntimeError: of a version
            if is_outage(error) or is_damage(error):
                raise
            raise DataError(f"the study {self.path} cannot be used: {cause(error)}") from error
        known, run = len(study.get_trials(deepcopy=False)), trial_numbers(self.path.parent)
        if run and max(run) >= known:
            raise DamagedStudy(self.path, f"it knows of {known} trials, there is a folder of number {max(run)}")
        return study

    def _check(self) -> None:
        """Raise sqlite3.DatabaseError or DamagedStudy if some page of the file is not what was written."""
        with closing(sqlite3.connect(self.path, timeout=BUSY_S)) as database:
            ((found,), *_) = database.execute("PRAGMA quick_check(1)").fetchall()
        if found != "ok":
            raise DamagedStudy(self.path, " ".join(found.split()))
