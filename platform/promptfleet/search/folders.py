"""Where sweeps lie: one folder per name, with the sweep as it was asked for, its study and its trials."""

import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import yaml

from promptfleet.atomic_files import replacing
from promptfleet.errors import ConfigError, did_you_mean
from promptfleet.search.spec import SweepSpec, parse_sweep
from promptfleet.yaml_files import read_yaml

SPEC_FILE = "sweep.yaml"


def sweeps_folder(storage_path: str | Path) -> Path:
    return Path(storage_path).absolute() / "sweeps"


def trial_folder(sweep_folder: str | Path, number: int) -> Path:
    """Checkpoint and result of one trial."""
    return Path(sweep_folder) / "trials" / f"{number:03d}"


def check_name(storage_path: str | Path, name: str) -> None:
    """Raise ConfigError if no new sweep can have this name: it is taken, or cannot be a folder's."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ConfigError(f"--name {name}: use letters, digits, '.', '_' and '-' only")
    if (sweeps_folder(storage_path) / name).exists():
        raise ConfigError(f"--name {name}: there is such a sweep; use --resume {name} to go on with it")


def create_sweep(spec: SweepSpec, storage_path: str | Path, *, name: str | None, default_name: str) -> Path:
    """A new folder that holds the spec. Without a name, the default one with the first number that is free.

    Raises ConfigError as ``check_name`` does.
    """
    root = sweeps_folder(storage_path)
    if name is not None:
        check_name(storage_path, name)
    for candidate in [name] if name else _numbered(default_name):
        try:
            (root / candidate).mkdir(parents=True)
        except FileExistsError:
            continue
        break
    _write_spec(root / candidate, spec)
    return root / candidate


def open_sweep(storage_path: str | Path, name: str, *, trials: int | None) -> tuple[Path, SweepSpec]:
    """The folder and spec of a sweep that was begun; ``trials`` changes its budget.

    Raises:
        ConfigError: there is no such sweep, naming those that are.
    """
    folder = sweeps_folder(storage_path) / name
    if not (folder / SPEC_FILE).is_file():
        raise ConfigError(f"--resume {name}: {_which_there_are(folder.parent, name)}")
    spec = parse_sweep(read_yaml(folder / SPEC_FILE), trials=trials, source=str(folder / SPEC_FILE))
    if trials is not None:
        _write_spec(folder, spec)
    return folder, spec


def _write_spec(folder: Path, spec: SweepSpec) -> None:
    with replacing(folder / SPEC_FILE) as partial:
        partial.write_text(yaml.safe_dump(spec.to_dict(), sort_keys=False))


def _numbered(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}-{number}" for number in count(2))


def _which_there_are(root: Path, name: str) -> str:
    names = sorted(path.parent.name for path in root.glob(f"*/{SPEC_FILE}"))
    if not names:
        return f"no sweep was begun yet in {root}"
    hint = did_you_mean(name, names)
    nearest = f" ({hint})" if hint else ""
    return f"there is no such sweep{nearest}; there are: {', '.join(names)}"
