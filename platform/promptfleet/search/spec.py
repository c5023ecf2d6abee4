"""A sweep as written: the federation that is searched, the space, and the budget. Checked before anything starts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Any

from pydantic import Field

from promptfleet.config import (
    WHERE_AND_HOW,
    FederationConfig,
    Section,
    build,
    dotted_keys,
    merge,
    nest,
    parse_assignments,
    unknown_key,
)
from promptfleet.errors import ConfigError
from promptfleet.federation.partitioning import with_partition_fingerprint
from promptfleet.federation.settings import config_model, federation_config
from promptfleet.search.space import Parameter, parse_parameter
from promptfleet.yaml_files import read_yaml

_KEPT = ("method", "dataset", "backbone", "features.", "rounds", "partition.file", "partition.fingerprint")
FIXED = (*_KEPT, *(f"{section}." for section in WHERE_AND_HOW))


class SweepSettings(Section):
    """The budget of a sweep: everything in a search file beside ``federation`` and ``space``."""

    trials: int = Field(16, ge=1)
    seed: int = Field(0, ge=0, description="of the sampler; the federation has its own")
    startup_trials: int = Field(6, ge=0, description="trials drawn at random before TPE learns from them")
    grace_rounds: int = Field(2, ge=1, description="rounds every trial may run before it can be stopped early")
    reduction_factor: int = Field(3, ge=2, description="one in so many trials survives each rung (ASHA)")
    concurrent_trials: int = Field(1, ge=1, description="federations side by side; 1 makes a sweep repeatable exactly")


@dataclass(frozen=True)
class SweepSpec:
    """A checked sweep. ``base`` are the federation's nested values without the searched keys."""

    settings: SweepSettings
    base: Mapping[str, Any]
    space: Mapping[str, Parameter]

    def to_dict(self) -> dict[str, Any]:
        """As a search file has it: ``parse_sweep`` gives the same sweep back."""
        space = {key: parameter.entry() for key, parameter in self.space.items()}
        return {**self.settings.model_dump(), "federation": dict(self.base), "space": space}

    def config(self, params: Mapping[str, Any], *, source: str = "trial") -> FederationConfig:
        """The federation of one trial; ``params`` by dotted key."""
        values = dict(self.base)
        for key, value in params.items():
            values = merge(values, nest(key, value))
        return federation_config(values, source=source)

    def extreme_configs(self, source: str = "space") -> Iterator[FederationConfig]:
        """Federations with every extreme value, and every pair of them: if these can be run, so can all others.

        The first is ``base_config``. Raises ConfigError, naming ``source``, at the first that is not a valid
        configuration.
        """
        first = self._first_values()
        yield self.config(first, source=source)
        for one, other in combinations(self.space, 2) if len(self.space) > 1 else [(next(iter(self.space)),) * 2]:
            for value, other_value in product(self.space[one].extremes(), self.space[other].extremes()):
                yield self.config({**first, one: value, other: other_value}, source=source)

    def base_config(self) -> FederationConfig:
        """A federation of this sweep with the first value of each searched key."""
        return self.config(self._first_values())

    def _first_values(self) -> dict[str, Any]:
        return {key: parameter.extremes()[0] for key, parameter in self.space.items()}


def read_sweep(path: str | Path, assignments: Sequence[str] = (), *, trials: int | None = None) -> SweepSpec:
    """Read a search file. ``assignments`` (``key=value``) fix keys of the federation, searched ones too.

    Raises:
        ConfigError: what is wrong, in which file or option, and what would be right.
    """
    return parse_sweep(read_yaml(path), assignments, trials=trials, source=str(path))


def parse_sweep(
    values: Mapping[str, Any], assignments: Sequence[str] = (), *, trials: int | None = None, source: str
) -> SweepSpec:
    """Check the content of a search file, see ``read_sweep``."""
    settings_values = {key: value for key, value in values.items() if key not in ("federation", "space")}
    known = [*dotted_keys(SweepSettings), "federation", "space"]
    for key in settings_values:
        if key not in known:
            raise unknown_key(str(key), known, source=source)
    settings = build(SweepSettings, settings_values, source=source)
    if trials is not None:
        settings = build(SweepSettings, {**settings_values, "trials": trials}, source="--trials")
    federation = _mapping(values, "federation", source)
    if federation:
        federation_config(federation, source=f"{source}: federation")
    overrides = parse_assignments(assignments)
    base = with_partition_fingerprint(merge(federation, overrides))
    space = _space(_mapping(values, "space", source), config_model(base), overrides, source)
    spec = SweepSpec(settings, base, space)
    for _ in spec.extreme_configs(f"{source} with --set" if overrides else f"{source}: space"):
        pass
    return spec


def _space(
    entries: Mapping[str, Any], model: type[FederationConfig], overrides: Mapping[str, Any], source: str
) -> dict[str, Parameter]:
    known = list(dotted_keys(model))
    space = {}
    for key, entry in entries.items():
        if key not in known:
            raise unknown_key(str(key), known, source=f"{source}: space")
        if key.startswith(FIXED):
            raise ConfigError(f"{source}: space.{key}: a sweep keeps {key} fixed; set it under 'federation'")
        parameter = parse_parameter(key, entry, source=source)
        if not _is_set(overrides, key):
            space[key] = parameter
    if not space:
        raise ConfigError(f"{source}: nothing to search: 'space' needs at least one key that --set does not fix")
    return space


def _mapping(values: Mapping[str, Any], name: str, source: str) -> Mapping[str, Any]:
    section = values.get(name)
    if section is None:
        return {}
    if not isinstance(section, Mapping):
        raise ConfigError(f"{source}: {name}: got {section!r}, should be a section of keys")
    return section


def _is_set(values: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(values, Mapping) or part not in values:
            return False
        values = values[part]
    return True
