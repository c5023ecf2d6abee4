"""From files, ``--set`` and plain values to the configuration of one federation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from promptfleet.config import (
    FederationConfig,
    StorageConfig,
    build,
    dotted_keys,
    flatten,
    merge,
    nest,
    parse_assignments,
    unknown_key,
)
from promptfleet.federation.partitioning import with_partition_fingerprint
from promptfleet.methods import config_class
from promptfleet.yaml_files import read_yaml


def config_model(values: Mapping[str, Any]) -> type[FederationConfig]:
    """The configuration class of the method that ``values`` name, or of the default one. Raises ConfigError."""
    return config_class(values.get("method", FederationConfig.model_fields["method"].default))


def federation_config(values: Mapping[str, Any], *, source: str = "configuration") -> FederationConfig:
    """Validate nested values; ``method`` decides which further keys there are. Raises ConfigError."""
    return build(config_model(values), with_partition_fingerprint(values), source=source)


def values_for(method: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """What of nested ``values`` is meant for the method: the keys that it has, and its name."""
    known = list(dotted_keys(config_class(method)))
    mine: dict[str, Any] = {}
    for key, value in flatten(values).items():
        if _is_known(key, known):
            mine = merge(mine, nest(key, value))
    return {**mine, "method": method}


def check_known(methods: Sequence[str], values: Mapping[str, Any], *, source: str) -> None:
    """Raise ConfigError at the first key of nested ``values`` that none of the methods has."""
    known = list(dict.fromkeys(key for method in methods for key in dotted_keys(config_class(method))))
    for key in flatten(values):
        if not _is_known(key, known):
            raise unknown_key(key, known, source=source)


def _is_known(key: str, known: Sequence[str]) -> bool:
    """Also a section of that name, and what someone wrote below a key: both are for ``build`` to explain."""
    return any(one == key or one.startswith(f"{key}.") or key.startswith(f"{one}.") for one in known)


def read_federation_config(path: str | Path | None, assignments: Sequence[str] = ()) -> FederationConfig:
    """Defaults, then a YAML file if one is given, then ``key=value`` assignments: later ones win."""
    values = read_yaml(path) if path is not None else {}
    if values:
        federation_config(values, source=str(path))
    overrides = parse_assignments(assignments)
    source = "--set" if overrides else str(path or "defaults")
    return federation_config(merge(values, overrides), source=source)


def assigned_storage(assignments: Sequence[str]) -> StorageConfig:
    """Where to look for what is resumed: what ``key=value`` assignments say of it, and its default."""
    return build(StorageConfig, parse_assignments(assignments).get("storage", {}), source="--set storage")
