"""Folder of one federation by its user's name: its content, a new start there, and resuming from it."""

import hashlib
import json
import logging
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptfleet.atomic_files import replacing
from promptfleet.config import (
    EXECUTION_SECTIONS,
    FederationConfig,
    StorageConfig,
    fingerprint_of,
    flatten,
    merge,
    result_values,
)
from promptfleet.disks import check_writable, disk_errors
from promptfleet.errors import ConfigError, DataError, PromptfleetError, did_you_mean
from promptfleet.federation.checkpoints.files import clear_checkpoints, newest_round
from promptfleet.federation.checkpoints.folder import RESULT_FILE
from promptfleet.federation.server_rows import clear_rows
from promptfleet.federation.settings import assigned_storage, federation_config, read_assignments, read_config
from promptfleet.storage.remote import remote_folder, until_it_answers
from promptfleet.yaml_files import dump_yaml, read_yaml

CONFIG_FILE = "config.yaml"
FEDERATIONS = "federations"  # under storage.path, for federations without a named folder
ELSEWHERE = "choose another folder, or overwrite it (--overwrite, in Python overwrite=True)"
SHOWN = 12  # federations in an error, the newest first
_WITHOUT_CHECKPOINTS = "holds a result without its checkpoints"

logger = logging.getLogger(__name__)


def named_folder(storage: StorageConfig, option: str, name: str) -> Path:
    """Return the folder that ``--out`` or ``--resume`` names; if ``storage`` is an address, one there.

    Raises ConfigError: it would be elsewhere.
    """
    if storage.address is not None and (Path(name).is_absolute() or ".." in Path(name).parts):
        raise ConfigError(f"{option} {name}: should be a folder at {storage.address}, such as {FEDERATIONS}/mine")
    return Path(name) if storage.address is None else storage.folder / name


def resumed_as(storage: StorageConfig, folder: Path) -> str:
    """Return the name for ``--resume`` of a folder from ``named_folder``."""
    return str(folder) if storage.address is None else storage.name_of(folder)


def default_folder(config: FederationConfig) -> Path:
    """Return the default folder of a federation: the same for the same configuration, and for no other."""
    readable = re.sub(r"[^\w.-]+", "-", f"{config.method}-{config.dataset}")[:80]
    identity = json.dumps(_identity(config.to_dict()), sort_keys=True)
    name = f"{readable}-seed{config.seed}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"
    return config.storage.folder / FEDERATIONS / name


def check_new(folder: Path, config: FederationConfig, *, overwrite: bool) -> None:
    """Raise unless a new federation may start in ``folder``, or the same one was finished there. Changes nothing.

    Raises:
        ConfigError: there is a federation that is not finished, or another one, unless ``overwrite``.
        StorageError: the folder cannot be made, read or written.
    """
    name = resumed_as(config.storage, folder)
    _pull(config.storage, folder)
    check_writable(folder, named=f"--out {name}")
    kept = _kept(folder)
    if kept is None or overwrite:
        return
    there = fingerprint_of(kept.values) if kept.values is not None else None
    if there is not None and (there != config.fingerprint() or kept.values.get("data") != config.to_dict()["data"]):
        raise ConfigError(f"--out {name}: {_other(kept, config)}; {ELSEWHERE}")
    if kept.checkpoint is None:
        raise ConfigError(f"--out {name}: {_WITHOUT_CHECKPOINTS}; {ELSEWHERE}")
    if kept.checkpoint != config.rounds or there is None:
        raise ConfigError(
            f"--out {name}: holds a federation that was stopped after round {kept.checkpoint}; resume it with "
            f"--resume {name}, or give --overwrite to start again"
        )
    logger.info("%s: this federation was finished before; --overwrite runs it again", name)


def check_same(folder: Path, config: FederationConfig) -> None:
    """Raise DataError if ``folder`` holds another federation, or results without checkpoints to resume from."""
    kept = _kept(folder)
    if kept is None:
        return
    if kept.values is not None and fingerprint_of(kept.values) != config.fingerprint():
        raise DataError(f"{folder}: {_other(kept, config)}; {ELSEWHERE}")
    if kept.checkpoint is None:
        raise DataError(f"{folder}: {_WITHOUT_CHECKPOINTS}; {ELSEWHERE}")


def begin_folder(folder: Path, config: FederationConfig) -> None:
    """Make ``folder`` ready for a new federation: its configuration in it, and no file of another one.

    Raises StorageError: the disk refuses.
    """
    with disk_errors():
        clear_checkpoints(folder)
        clear_rows(folder)
        (folder / RESULT_FILE).unlink(missing_ok=True)
        with replacing(folder / CONFIG_FILE) as partial:
            partial.write_text(dump_yaml(config.to_dict()))


def resumed_config(folder: Path, assignments: Sequence[str], *, trust_code: bool = False) -> FederationConfig:
    """Return the configuration of the federation in ``folder``; ``assignments`` may change where and how it runs.

    Raises:
        ConfigError: there is none, or an assignment would make it another federation; trust_code: see ``read_config``.
    """
    storage = assigned_storage(assignments)
    _pull(storage, folder)
    with disk_errors(doing="read"):
        is_one = _is_file(folder / CONFIG_FILE)
    if not is_one:
        raise ConfigError(f"--resume {resumed_as(storage, folder)}: {_which_there_are(storage, folder)}")
    values = read_config(folder / CONFIG_FILE, trust_code=trust_code)
    begun = federation_config(values, source=str(folder / CONFIG_FILE))
    config = federation_config(merge(values, read_assignments(assignments, [begun.method])), source="--set")
    if config.storage.address != storage.address:
        raise ConfigError(
            f"--resume {folder}: its storage.path is {config.storage.path}; resume it there with "
            f"--set storage.path={config.storage.path}, or here with --set storage.path={StorageConfig().path}"
        )
    if config.fingerprint() != begun.fingerprint():
        raise ConfigError(
            f"--set {' '.join(assignments)}: a resumed federation keeps its configuration "
            f"(only {', '.join(EXECUTION_SECTIONS)} may be set)"
        )
    return config


def _which_there_are(storage: StorageConfig, folder: Path) -> str:
    missing = f"no federation was begun there (it has no {CONFIG_FILE})"
    newest_first = sorted(
        (storage.folder / FEDERATIONS).glob(f"*/{CONFIG_FILE}"), key=lambda path: path.stat().st_mtime, reverse=True
    )
    names = [resumed_as(storage, path.parent) for path in newest_first]
    if not names:
        return missing
    hint = did_you_mean(resumed_as(storage, folder), names)
    nearest = f" ({hint})" if hint else ""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{missing}{nearest}; there are: {', '.join(names[:SHOWN])}{more}"


def _pull(storage: StorageConfig, folder: Path) -> None:
    """Make the folder equal to its copy at the address, if it has one."""
    remote = remote_folder(storage, folder)
    if remote:
        until_it_answers(remote.pull, remote.address)


@dataclass(frozen=True)
class _Kept:
    """Federation that a folder holds: its configuration, None if it is not known, and its newest checkpoint."""

    values: Mapping[str, Any] | None
    checkpoint: int | None


def _kept(folder: Path) -> _Kept | None:
    """Return the federation in ``folder``, None if nothing would be lost. Raises StorageError."""
    checkpoint = newest_round(folder)
    with disk_errors(doing="read"):
        has_result = _is_file(folder / RESULT_FILE)
        values = _values(folder) if checkpoint is not None or has_result else None
    return _Kept(values, checkpoint) if checkpoint is not None or has_result else None


def _values(folder: Path) -> Mapping[str, Any] | None:
    """Return the configuration's values in the folder's file, None if they are missing or damaged."""
    try:
        if _is_file(folder / CONFIG_FILE):
            return read_yaml(folder / CONFIG_FILE)
        return dict(json.loads((folder / RESULT_FILE).read_text())["config"])
    except (FileNotFoundError, PromptfleetError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _is_file(path: Path) -> bool:
    """Return True if it is a file. ``Path.is_file`` also returns False if the disk fails. Raises OSError."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _other(kept: _Kept, config: FederationConfig) -> str:
    """Describe the keys that differ."""
    there, here = flatten(_identity(kept.values)), flatten(_identity(config.to_dict()))
    differing = [key for key in {**here, **there} if there.get(key) != here.get(key)]
    shown = ", ".join(f"{key}={there.get(key)} instead of {here.get(key)}" for key in differing[:3])
    more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
    return f"holds a federation with another configuration ({shown}{more})"


def _identity(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that the folder's name depends on: those of the result, and the place of the images."""
    return {**result_values(values), "data": values.get("data")}
