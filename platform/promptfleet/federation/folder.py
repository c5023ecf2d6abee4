"""The folder of one federation as a user names it: beginning one there, and going on with the one that is there."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from promptfleet.atomic_files import replacing
from promptfleet.config import WHERE_AND_HOW, FederationConfig, merge, parse_assignments
from promptfleet.errors import ConfigError
from promptfleet.federation.checkpoint import clear_checkpoints, newest_round
from promptfleet.federation.settings import federation_config
from promptfleet.yaml_files import read_yaml

CONFIG_FILE = "config.yaml"


def begin_folder(folder: Path, config: FederationConfig, *, overwrite: bool) -> None:
    """Make ``folder`` ready for a new federation: its configuration in it, and nothing of another one.

    Raises:
        ConfigError: it cannot be made, or holds a federation that is not finished, unless ``overwrite``.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {folder}: cannot be made ({error.strerror})") from None
    done = newest_round(folder)
    if done is not None and not overwrite:
        rounds = read_yaml(folder / CONFIG_FILE).get("rounds") if (folder / CONFIG_FILE).exists() else None
        if done != rounds:
            raise ConfigError(
                f"--out {folder}: holds a federation that was stopped after round {done}; go on with it by "
                f"--resume {folder}, or give --overwrite to begin anew"
            )
    clear_checkpoints(folder)
    with replacing(folder / CONFIG_FILE) as partial:
        partial.write_text(yaml.safe_dump(config.to_dict(), sort_keys=False))


def resumed_config(folder: Path, assignments: Sequence[str]) -> FederationConfig:
    """The configuration of the federation in ``folder``; ``assignments`` may change where and how it runs.

    Raises:
        ConfigError: there is none, or an assignment would make it another federation.
    """
    if not (folder / CONFIG_FILE).is_file():
        raise ConfigError(f"--resume {folder}: no federation was begun there (it has no {CONFIG_FILE})")
    values = read_yaml(folder / CONFIG_FILE)
    begun = federation_config(values, source=str(folder / CONFIG_FILE))
    config = federation_config(merge(values, parse_assignments(assignments)), source="--set")
    if config.fingerprint() != begun.fingerprint():
        raise ConfigError(
            f"--set {' '.join(assignments)}: a resumed federation keeps its configuration "
            f"(only {', '.join(WHERE_AND_HOW)} may be set)"
        )
    return config
