"""From files, ``--set`` and plain values to the configuration of one federation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from promptfleet.config import FederationConfig, build, merge, parse_assignments
from promptfleet.federation.partitioning import with_partition_fingerprint
from promptfleet.methods import config_class
from promptfleet.yaml_files import read_yaml


def config_model(values: Mapping[str, Any]) -> type[FederationConfig]:
    """The configuration class of the method that ``values`` name, or of the default one. Raises ConfigError."""
    return config_class(values.get("method", FederationConfig.model_fields["method"].default))


def federation_config(values: Mapping[str, Any], *, source: str = "configuration") -> FederationConfig:
    """Validate nested values; ``method`` decides which further keys there are. Raises ConfigError."""
    return build(config_model(values), with_partition_fingerprint(values), source=source)


def read_federation_config(path: str | Path | None, assignments: Sequence[str] = ()) -> FederationConfig:
    """Defaults, then a YAML file if one is given, then ``key=value`` assignments: later ones win."""
    values = read_yaml(path) if path is not None else {}
    if values:
        federation_config(values, source=str(path))
    overrides = parse_assignments(assignments)
    source = "--set" if overrides else str(path or "defaults")
    return federation_config(merge(values, overrides), source=source)
