"""Folders of sweeps and comparisons: one per name, with the specification, the study and the trials."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from promptfleet.atomic_files import replacing
from promptfleet.config import StorageConfig
from promptfleet.disks import disk_errors, unusable_path
from promptfleet.errors import ConfigError, did_you_mean
from promptfleet.federation.checkpoints.folder import alone_in
from promptfleet.federation.settings import read_config
from promptfleet.search.spec import SweepSpec, kept_at, parse_sweep
from promptfleet.storage.remote import bring_file
from promptfleet.yaml_files import dump_yaml

LONGEST = 200  # bytes of a name, which others are made from


@dataclass(frozen=True)
class Shelf:
    """Folders of one ``kind``, each with a ``file`` that holds its specification."""

    kind: str
    folder: str
    file: str

    def check_name(self, storage: StorageConfig, name: str) -> None:
        """Raise ConfigError if nothing new can have this name: it is taken, or cannot be a folder's."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ConfigError(f"--name {name}: use letters, digits, '.', '_' and '-' only")
        if len(name) > LONGEST:
            raise ConfigError(f"--name {name[:20]}...: has {len(name)} characters, should be at most {LONGEST}")
        with disk_errors(doing="read"):
            taken = (self._root(storage) / name).exists()
        if taken:
            raise ConfigError(f"--name {name}: a {self.kind} of that name exists; resume it with --resume {name}")

    def has(self, storage: StorageConfig, name: str) -> bool:
        """Return True if something of this name was begun."""
        with disk_errors(doing="read"):
            return (self._root(storage) / name / self.file).is_file()

    @contextmanager
    def create(
        self, values: Mapping[str, Any], storage: StorageConfig, *, name: str | None, default_name: str
    ) -> Iterator[Path]:
        """Make a new folder with the values, for this process alone.

        Without a name, it is the default one with the first number that is free. Raises ConfigError as ``check_name``.
        """
        root = self._root(storage)
        if name is not None:
            self.check_name(storage, name)
        with disk_errors():
            for candidate in [name] if name else _numbered(as_name(default_name) or self.kind):
                try:
                    (root / candidate).mkdir(parents=True)
                except FileExistsError:
                    continue
                break
        with alone_in(root / candidate, timeout_s=0.0):
            self.write(storage, root / candidate, values)
            yield root / candidate

    @contextmanager
    def resume(self, storage: StorageConfig, name: str, *, alone: bool = True) -> Iterator[Path]:
        """Give the folder of this name, to this process ``alone`` unless it only reads.

        Raises:
            ConfigError: there is none, naming those there are.
            DataError: another process is at work in it.
        """
        folder = self.find(storage, name)
        with alone_in(folder, timeout_s=0.0) if alone else nullcontext():
            yield folder

    def find(self, storage: StorageConfig, name: str, *, option: str = "--resume ") -> Path:
        """Return the folder of the name that ``option`` gave. Raises ConfigError naming the existing ones."""
        folder = self._root(storage) / name
        with disk_errors(doing="read"):
            is_one = folder.name == name and not unusable_path(name) and (folder / self.file).is_file()
        if not is_one:
            raise ConfigError(f"{option}{name}: {self._which_there_are(storage, name)}")
        return folder

    def write(self, storage: StorageConfig, folder: Path, values: Mapping[str, Any]) -> None:
        """Replace the file with the specification. Raises StorageError."""
        with disk_errors(), replacing(folder / self.file) as partial:
            partial.write_text(dump_yaml(values))
        bring_file(storage, folder / self.file)

    def _root(self, storage: StorageConfig) -> Path:
        return storage.folder.absolute() / self.folder

    def _which_there_are(self, storage: StorageConfig, name: str) -> str:
        root = self._root(storage)
        names = sorted(path.parent.name for path in root.glob(f"*/{self.file}"))
        if not names:
            return f"no {self.kind} was begun yet in {storage.shown(root)}"
        hint = did_you_mean(name, names)
        nearest = f" ({hint})" if hint else ""
        return f"there is no such {self.kind}{nearest}; there are: {', '.join(names)}"


SWEEPS = Shelf("sweep", "sweeps", "sweep.yaml")
COMPARISONS = Shelf("comparison", "comparisons", "comparison.yaml")


def trial_folder(folder: str | Path, number: int) -> Path:
    """Return the folder with checkpoint and result of one trial."""
    return Path(folder) / "trials" / f"{number:03d}"


def trial_numbers(folder: str | Path) -> list[int]:
    """Return the numbers of the trials that have a folder."""
    return sorted(int(path.name) for path in Path(folder).glob("trials/*") if path.name.isdecimal() and path.is_dir())


def read_begun(
    storage: StorageConfig,
    folder: Path,
    *,
    trials: int | None = None,
    budget: Mapping[str, Any] | None = None,
    trust_code: bool = False,
) -> SweepSpec:
    """Return the specification of the sweep in ``folder``, at its present place, with new ``trials`` or ``budget``.

    Raises ConfigError: the file cannot be used; trust_code: see ``read_config``.
    """
    file = folder / SWEEPS.file
    values = read_config(file, trust_code=trust_code, closed=("space",))
    return parse_sweep(kept_at(storage, values), trials=trials, budget=budget, source=str(file))


def as_name(text: str) -> str:
    """Return text such as a file's name in characters for a folder, a database and a shell."""
    tidy = re.sub(r"[^\w.-]+", "-", text).strip("-.")
    return tidy.encode()[:LONGEST].decode(errors="ignore")


def _numbered(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}-{number}" for number in count(2))
