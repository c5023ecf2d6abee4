"""Conversion of files, ``--set`` and plain values to the configuration of one federation."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from promptfleet.assignments import parse_assignments, split_assignment, unfold
from promptfleet.config import (
    FederationConfig,
    StorageConfig,
    build,
    dotted_keys,
    flatten,
    merge,
    nest,
    text_keys,
    unknown_key,
    unknown_keys,
)
from promptfleet.config_types import expand_home
from promptfleet.errors import ConfigError, did_you_mean
from promptfleet.federation.file_contents import with_file_contents
from promptfleet.imported import is_foreign
from promptfleet.methods import METHODS, config_class
from promptfleet.yaml_files import read_yaml

DEFAULT_METHOD = FederationConfig.model_fields["method"].default


def config_model(values: Mapping[str, Any]) -> type[FederationConfig]:
    """Return the configuration class of the method that ``values`` name, or of the default one. Raises ConfigError."""
    return config_class(values.get("method", DEFAULT_METHOD))


def federation_config(values: Mapping[str, Any], *, source: str = "configuration") -> FederationConfig:
    """Validate nested values; ``method`` decides which further keys there are. Raises ConfigError."""
    model = config_model(values)
    for key in unknown_keys(model, values):
        raise unknown_federation_key(key, [values.get("method", DEFAULT_METHOD)], source=source)
    return build(model, with_file_contents(values), source=source)


def configuration_of(
    given: FederationConfig | Mapping[str, Any] | str | PathLike[str], *, trust_code: bool = False
) -> FederationConfig:
    """Return the configuration of Python code: an object, values with nested or dotted keys, or a file's path.

    Raises ConfigError; trust_code: see ``read_config``.
    """
    if isinstance(given, str | PathLike):
        return read_federation_config(local_path(given, "configuration"), trust_code=trust_code)
    if isinstance(given, FederationConfig):  # of any method's class, and with values that ``model_copy`` left unchecked
        given = given.model_dump(exclude_unset=True, by_alias=True, warnings=False)
    if not isinstance(given, Mapping):
        raise ConfigError(f"configuration: got {given!r}, should be a mapping of keys, a FederationConfig or a path")
    return federation_config(unfold(given, source="configuration"))


def local_path(given: str | PathLike[str], name: str) -> str:
    """Return a path from Python code, with ``~`` replaced. Raises ConfigError: it is none, or an address."""
    if not isinstance(given, str | PathLike) or not isinstance(fspath(given), str):
        raise ConfigError(f"{name}: got {given!r}, should be a path")
    try:
        path = expand_home(fspath(given))
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from None
    if "://" in path:
        raise ConfigError(f"{name}: got {path!r}, should be a path on this machine; an address goes to storage.path")
    return path


def read_config(path: str | Path, *, trust_code: bool, closed: Collection[str] = ()) -> dict[str, Any]:
    """Return nested values of a YAML file for a federation, a search or a comparison; ``closed``: see ``unfold``.

    Raises ConfigError: it cannot be read; or it names a method or sampler outside this package, which would be imported
    and run, unless ``trust_code``.
    """
    values = unfold(read_yaml(path), source=str(path), closed=closed)
    foreign = [(kind, name) for kind, name in _named_code(values) if is_foreign(name)]
    if foreign and not trust_code:
        kind, name = foreign[0]
        raise ConfigError(
            f"{path}: {kind} {name!r} is code outside promptfleet, which would be run; give --trust-code if you "
            f"trust this file and that module"
        )
    return values


def trust_option(names: Iterable[str]) -> str:
    """Return the option that a command line needs to read a configuration with these methods and samplers again."""
    return " --trust-code" if any(map(is_foreign, names)) else ""


def _named_code(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield kind and name of every method and sampler: a method is also searched, or in ``methods`` or ``tuning``."""
    for key, value in values.items():
        if key in ("method", "sampler"):
            choices = value.get("choice") if isinstance(value, Mapping) else [value]
            yield from ((key, name) for name in (choices if isinstance(choices, list) else []) if isinstance(name, str))
        elif isinstance(value, Mapping):
            yield from (("method", name) for name in value if key in ("methods", "tuning"))
            yield from _named_code(value)


def all_keys() -> list[str]:
    """Return every dotted key of any method's federation."""
    return list(dict.fromkeys(key for method in METHODS for key in dotted_keys(config_class(method))))


def unknown_federation_key(key: str, methods: Sequence[str], *, source: str) -> ConfigError:
    """Return the error for a key that none of the methods has: with the methods that do, or the nearest key."""
    owners = [name for name in METHODS if key in dotted_keys(config_class(name))]
    if owners:
        choice = f"method={owners[0]}" if len(owners) == 1 else "method to one of them"
        return ConfigError(
            f"{source}: unknown key {key!r} with method {' or '.join(methods)}: it is a key of {', '.join(owners)}; "
            f"leave it out, or set {choice}"
        )
    renamed = {old: new for method in methods for old, new in config_class(method).renamed_keys.items()}
    if key in renamed:
        return unknown_key(key, (), source=source, renamed=renamed)
    known = list(dict.fromkeys(key for method in methods for key in dotted_keys(config_class(method))))
    others = [other for other in all_keys() if other not in known]
    if not did_you_mean(key, known, cutoff=0.75) and (hint := did_you_mean(key, others, cutoff=0.75)):
        return ConfigError(f"{source}: unknown key {key!r}; {hint} (a key that {' or '.join(methods)} does not have)")
    return unknown_key(key, known, source=source)


def values_for(method: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of nested ``values`` that is meant for the method: the keys that it has, and its name."""
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
            raise unknown_federation_key(key, methods, source=source)


def _is_known(key: str, known: Sequence[str]) -> bool:
    """Return True for a known key, a section of that name, or a key below a known one: ``build`` explains these."""
    return any(one == key or one.startswith(f"{key}.") or key.startswith(f"{one}.") for one in known)


def read_federation_config(
    path: str | Path | None, assignments: Sequence[str] = (), *, trust_code: bool = False
) -> FederationConfig:
    """Read defaults, then a YAML file if one is given, then ``key=value`` assignments: later ones win.

    Raises ConfigError; trust_code: see ``read_config``.
    """
    values = read_config(path, trust_code=trust_code) if path is not None else {}
    if "space" in values:
        raise ConfigError(f"{path}: is a search file ('space'): give it to tune.py by --search")
    if "methods" in values:
        raise ConfigError(f"{path}: is a file of a comparison ('methods'): give it to compare.py by --config")
    if values:
        federation_config(values, source=str(path))
    overrides = read_assignments(assignments, [values.get("method", DEFAULT_METHOD)])
    source = "--set" if overrides else str(path or "defaults")
    return federation_config(merge(values, overrides), source=source)


def read_assignments(assignments: Sequence[str], methods: Iterable[str]) -> dict[str, Any]:
    """Return nested values of ``key=value`` assignments for federations of these methods, or of the named one."""
    named = [text for key, text in map(split_assignment, assignments) if key == "method"][-1:]
    return parse_assignments(assignments, text_keys_of(named or methods))


def text_keys_of(methods: Iterable[str]) -> dict[str, bool]:
    """Return ``text_keys`` of all these methods' configurations."""
    return {key: optional for method in methods for key, optional in text_keys(config_class(method)).items()}


def assigned_storage(assignments: Sequence[str]) -> StorageConfig:
    """Return the storage to resume from: the ``key=value`` assignments for it, and its default."""
    entries = [entry for entry in assignments if split_assignment(entry)[0].split(".")[0] == "storage"]
    values = parse_assignments(entries, text_keys(FederationConfig))
    return build(StorageConfig, values.get("storage", {}), source="--set storage")
