"""The folder of one federation as a user names it: beginning one there, and going on with the one that is there."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from promptfleet.atomic_files import replacing
from promptfleet.config import WHERE_AND_HOW, FederationConfig, StorageConfig, merge
from promptfleet.errors import ConfigError
from promptfleet.federation.settings import assigned_storage, federation_config, read_assignments
from promptfleet.federation.storage.checkpoint import clear_checkpoints, newest_round
from promptfleet.federation.storage.kept_rows import clear_rows
from promptfleet.federation.storage.remote import RemoteFolder, remote_folder, until_it_answers
from promptfleet.yaml_files import read_yaml

CONFIG_FILE = "config.yaml"
FEDERATIONS = "federations"  # under storage.path, where nothing else was said


def named_folder(storage: StorageConfig, option: str, name: str) -> Path:
    """The folder that ``--out`` or ``--resume`` names; where ``storage`` is an address, one there.

    Raises ConfigError: it would lie elsewhere.
    """
    if storage.address is not None and (Path(name).is_absolute() or ".." in Path(name).parts):
        raise ConfigError(f"{option} {name}: should be a folder at {storage.address}, such as {FEDERATIONS}/mine")
    return Path(name) if storage.address is None else storage.folder / name


def resumed_as(storage: StorageConfig, folder: Path) -> str:
    """What ``--resume`` takes for a folder that ``named_folder`` gave."""
    return str(folder) if storage.address is None else storage.name_of(folder)


def begin_folder(folder: Path, config: FederationConfig, *, overwrite: bool) -> None:
    """Make ``folder`` ready for a new federation: its configuration in it, and nothing of another one.

    Raises:
        ConfigError: it cannot be made, or holds a federation that is not finished, unless ``overwrite``.
    """
    remote = _pulled(config.storage, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {folder}: cannot be made ({error.strerror})") from None
    done = newest_round(folder)
    if done is not None and not overwrite:
        rounds = read_yaml(folder / CONFIG_FILE).get("rounds") if (folder / CONFIG_FILE).exists() else None
        if done != rounds:
            name = resumed_as(config.storage, folder)
            raise ConfigError(
                f"--out {name}: holds a federation that was stopped after round {done}; go on with it by "
                f"--resume {name}, or give --overwrite to begin anew"
            )
    clear_checkpoints(folder)
    clear_rows(folder)
    with replacing(folder / CONFIG_FILE) as partial:
        partial.write_text(yaml.safe_dump(config.to_dict(), sort_keys=False))
    if remote:
        until_it_answers(remote.push, remote.address)
        until_it_answers(remote.drop, remote.address)


def resumed_config(folder: Path, assignments: Sequence[str]) -> FederationConfig:
    """The configuration of the federation in ``folder``; ``assignments`` may change where and how it runs.

    Raises:
        ConfigError: there is none, or an assignment would make it another federation.
    """
    storage = assigned_storage(assignments)
    _pulled(storage, folder)
    if not (folder / CONFIG_FILE).is_file():
        raise ConfigError(f"--resume {folder}: no federation was begun there (it has no {CONFIG_FILE})")
    values = read_yaml(folder / CONFIG_FILE)
    begun = federation_config(values, source=str(folder / CONFIG_FILE))
    config = federation_config(merge(values, read_assignments(assignments, [begun.method])), source="--set")
    if config.storage.address != storage.address:
        raise ConfigError(
            f"--resume {folder}: its storage.path is {config.storage.path}; go on with what is there by "
            f"--set storage.path={config.storage.path}, or here by --set storage.path={StorageConfig().path}"
        )
    if config.fingerprint() != begun.fingerprint():
        raise ConfigError(
            f"--set {' '.join(assignments)}: a resumed federation keeps its configuration "
            f"(only {', '.join(WHERE_AND_HOW)} may be set)"
        )
    return config


def _pulled(storage: StorageConfig, folder: Path) -> RemoteFolder | None:
    """The folder's home, if it has one, from where all of it was brought."""
    remote = remote_folder(storage, folder)
    if remote:
        until_it_answers(remote.pull, remote.address)
    return remote
