"""Conversion of ``key=value`` assignments and dotted keys to nested values of a configuration."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from promptfleet.config import merge, nest
from promptfleet.errors import ConfigError
from promptfleet.yaml_files import parse_yaml

TextKeys = Mapping[str, bool]  # dotted keys whose values are text -> whether null is one of them
EXAMPLES = {"--set": "clients=5", "--budget": "rounds=900"}


def split_assignment(assignment: str, *, option: str = "--set") -> tuple[str, str]:
    """Return key and text of ``key=value``, which ``option`` gave. Raises ConfigError."""
    key, equals, text = assignment.partition("=")
    if not equals or not key.strip():
        raise ConfigError(
            f"{option} {assignment}: write key=value, for example {option} {EXAMPLES[option]}; a value with spaces "
            f"needs quotes: {option} 'key=two words'"
        )
    return key.strip(), text


def parse_assignments(assignments: Iterable[str], text_keys: TextKeys, *, option: str = "--set") -> dict[str, Any]:
    """Turn ``["clients=5", "partition.alpha=0.1"]`` into nested values; later ones win.

    The right side is taken as it is for ``text_keys``, and read as YAML for all others. Raises ConfigError.
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, text = split_assignment(assignment, option=option)
        values = merge(values, nest(key, _value(key, text, text_keys, f"{option} {key}")))
    return values


def unfold(values: Mapping[str, Any], *, source: str, closed: Collection[str] = (), prefix: str = "") -> dict[str, Any]:
    """Return values with ``{"partition.alpha": 0.1}`` written as ``{"partition": {"alpha": 0.1}}``, at every depth.

    closed: sections whose keys stay as they are, since they are names or searched keys.
    Raises ConfigError: the same key in both forms, or a key that is no text.
    """
    nested: dict[str, Any] = {}
    for key, value in values.items():
        if not isinstance(key, str):
            raise ConfigError(f"{source}: {prefix}{key!r}: a key must be a word")
        head, _, rest = key.partition(".")
        if isinstance(value, Mapping) and head not in closed:
            value = unfold(value, source=source, prefix=f"{prefix}{key}.")
        if head in closed and rest:
            entry = {head: {rest: value}}
        else:
            entry = {key: value} if ":" in key or not all(key.split(".")) else nest(key, value)
        nested = _joined(nested, entry, source, prefix)
    return nested


def _value(key: str, text: str, text_keys: TextKeys, source: str) -> Any:
    if key not in text_keys:
        value = parse_yaml(text, source=source)
        return unfold(value, source=source, prefix=f"{key}.") if isinstance(value, Mapping) else value
    return None if text_keys[key] and text in ("", "null") else text


def _joined(one: Mapping[str, Any], other: Mapping[str, Any], source: str, prefix: str) -> dict[str, Any]:
    joined = dict(one)
    for key, value in other.items():
        where = f"{prefix}{key}"
        if key not in joined:
            joined[key] = value
        elif isinstance(joined[key], Mapping) and isinstance(value, Mapping):
            joined[key] = _joined(joined[key], value, source, f"{where}.")
        elif isinstance(joined[key], Mapping) or isinstance(value, Mapping):
            raise ConfigError(f"{source}: {where} is there with a value, and with keys; keep one")
        else:
            raise ConfigError(f"{source}: {where} is there twice, once as a dotted key; keep one")
    return joined
