"""Database of a study: access with patience, and recognition of a damaged one."""

import os
import sqlite3
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.exceptions import OptunaError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from promptfleet.databases import sqlite_address
from promptfleet.errors import DataError
from promptfleet.outages import cause, is_damage, is_outage, patiently
from promptfleet.search.conditions import is_active
from promptfleet.search.folders import trial_numbers
from promptfleet.search.space import Parameter

FILE = "study.db"
PATIENCE_S = 600.0  # seconds with a full disk or a locked database
BUSY_S = 5.0  # seconds of them that SQLite itself waits for a lock at a time
_NO_SUCH = ("no such table", "no such column")
_NO_STUDY = (SQLAlchemyError, OptunaError, LookupError, ValueError, TypeError, AttributeError, RecursionError)

T = TypeVar("T")


class DamagedStudy(DataError):
    """A study whose database can never be read as it is, or lacks something that has been run."""

    def __init__(self, path: Path, why: str, *, state: str = "is damaged"):
        kept = len(list(path.parent.glob("trials/*/result.json")))
        saved = f"{kept} of its trials have their results on disk: give --rebuild-study with --resume to use them"
        super().__init__(f"the study {path} {state} ({why}); {saved}")


class StudyFile:
    """Optuna study in ``folder``, new or continued. A failed access is repeated for up to ten minutes.

    A new one is called ``name``. objectives are their directions by name, as dashboards show them.

    Raises:
        DamagedStudy: the database was changed, or is of another version of Optuna.
        DataError: it cannot be used for ten minutes.
    """

    def __init__(self, folder: Path, space: Mapping[str, Parameter], objectives: Mapping[str, str], name: str):
        self.path = folder.absolute() / FILE
        self._space = space
        self._objectives = objectives
        self._name = name
        self.failure: DataError | None = None  # the last one
        self._read: list[FrozenTrial] | None = None
        self.study: optuna.Study = self.patiently(self._open)

    def patiently(self, access: Callable[[], T]) -> T:
        """Return the result of ``access``, which is safe to repeat. Raises DataError, also kept as ``failure``."""
        store = f"the study {self.path}"
        try:
            return patiently(access, store=store, patience_s=PATIENCE_S)
        except Exception as error:
            if is_damage(error):
                self.failure = DamagedStudy(self.path, cause(error))
            elif is_outage(error):
                self.failure = DataError(f"{store} cannot be used ({cause(error)}); --resume continues once it can")
            else:
                raise
            raise self.failure from None

    def trials(self) -> list[FrozenTrial]:
        """Return all trials; they are read again after some changes alone, since no other process changes them."""
        if self._read is None:
            self._read = self.study.get_trials(deepcopy=False)
        return self._read

    def add(self, trial: FrozenTrial) -> None:
        """Add the next trial."""
        self._read = None
        self.study.add_trial(trial)

    def set_attribute(self, trial: FrozenTrial, name: str, value: Any) -> None:
        """Set a user attribute of one of ``trials``. Optuna's own ``Trial`` reads the trial first, three times."""
        with self._known_change():
            self._storage.set_trial_user_attr(trial._trial_id, name, value)
            trial.user_attrs[name] = value

    def set_round(self, trial: FrozenTrial, round_index: int, value: float) -> None:
        """Store the objective of one of ``trials`` after a round."""
        with self._known_change():
            self._storage.set_trial_intermediate_value(trial._trial_id, round_index, value)
            trial.intermediate_values[round_index] = value

    def set_constraint(self, trial: FrozenTrial, name: str, excess: float) -> None:
        """Store by how much a trial that runs exceeds a bound."""
        self._read = None
        optuna.Trial(self.study, trial._trial_id).set_constraint(name, excess)

    def tell(self, number: int, values: Sequence[float] | None, state: TrialState) -> None:
        """End a trial."""
        self._read = None
        self.study.tell(number, values, state=state)

    @contextmanager
    def _known_change(self) -> Iterator[None]:
        """Keep the trials that were read, which the body changes as it does the database, unless it fails."""
        read, self._read = self._read, None
        yield
        self._read = read

    def _open(self) -> optuna.Study:
        if os.path.lexists(self.path):
            self._check_file()
        address = sqlite_address(self.path)
        try:
            options = {"connect_args": {"timeout": BUSY_S}}
            storage = optuna.storages.get_storage(optuna.storages.RDBStorage(address, engine_kwargs=options))
            study = optuna.create_study(
                study_name=next(iter(optuna.get_all_study_names(storage)), self._name),
                storage=storage,
                directions=list(self._objectives.values()),
                load_if_exists=True,
                pruner=optuna.pruners.NopPruner(),
            )
            self._storage = storage
            if study.metric_names != list(self._objectives):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # it is experimental
                    study.set_metric_names(list(self._objectives))
            trials = study.get_trials(deepcopy=False)
        except Exception as error:
            if (damage := self._damage_of(error)) is None:
                raise
        else:
            lack = _lack(trials, self._space, trial_numbers(self.path.parent))
            if lack is None:
                return study
            damage = DamagedStudy(self.path, lack)
        raise damage  # out here, so that no outage is its context

    def _damage_of(self, error: Exception) -> DamagedStudy | None:
        """Return the damage that an error of opening reports, None if waiting may help."""
        if is_outage(error):
            why = cause(error)
            return DamagedStudy(self.path, why) if why.startswith(_NO_SUCH) else None
        if type(error) is RuntimeError:
            version = f"it is of another version of Optuna than {optuna.__version__}"
            return DamagedStudy(self.path, version, state="cannot be used")
        return DamagedStudy(self.path, "Optuna cannot read its rows") if isinstance(error, _NO_STUDY) else None

    def _check_file(self) -> None:
        """Raise sqlite3.DatabaseError or DamagedStudy if some page of the file was changed."""
        if not self.path.is_file():
            raise DamagedStudy(self.path, "it is no file")
        with closing(sqlite3.connect(self.path, timeout=BUSY_S)) as database:
            ((found,), *_) = database.execute("PRAGMA quick_check(1)").fetchall()
        if found != "ok":
            raise DamagedStudy(self.path, " ".join(found.split()))


def _lack(trials: Sequence[FrozenTrial], space: Mapping[str, Parameter], folders: Sequence[int]) -> str | None:
    """Return the missing part of the proposed trials and of those that have folders, None if all are there."""
    if folders and folders[-1] >= len(trials):
        return f"it knows of {len(trials)} trials, there is a folder of number {folders[-1]}"
    for number, trial in enumerate(trials):
        if trial.number != number:
            return f"trial {number} is missing"
        if trial.params.keys() != _searched(space, trial.params):
            return f"trial {number} does not have the keys that are searched"
        if trial.state == TrialState.COMPLETE and trial.values is None:
            return f"trial {number} is complete without a value"
    return None


def _searched(space: Mapping[str, Parameter], params: Mapping[str, Any]) -> set[str]:
    """Return the keys that a trial of these values should have."""
    return {key for key, parameter in space.items() if is_active(parameter, params)}
