"""Search per method, from a file with a space for each, see ``search_spaces/methods.yaml``."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from promptfleet.comparison.spec import OWN_KEYS, ComparisonSpec, common_keys, method_values
from promptfleet.config import dotted_keys, flatten, merge
from promptfleet.errors import ConfigError
from promptfleet.federation.settings import check_known, federation_config
from promptfleet.methods import config_class
from promptfleet.search.default_space import default_space
from promptfleet.search.effects import check_effects
from promptfleet.search.spec import SweepSpec, parse_sweep

logger = logging.getLogger(__name__)


def read_tuning(
    values: Mapping[str, Any],
    source: str,
    spec: ComparisonSpec,
    overrides: Mapping[str, Any],
    trials: int | None,
) -> dict[str, SweepSpec]:
    """Read a search per method from a file with ``trials``, ..., ``federation`` and ``methods: {NAME: space}``.

    Keys given by ``--set`` are not searched. A method with an empty space keeps its values; one that the file does not
    name has the space of ``default_space``.
    """
    spaces = values.get("methods")
    if not isinstance(spaces, Mapping) or not all(isinstance(space, Mapping | None) for space in spaces.values()):
        raise ConfigError(f"{source}: methods: should be {{NAME: {{key: {{float: [low, high]}}, ...}}}}")
    federation = values.get("federation") or {}
    if not isinstance(federation, Mapping):
        raise ConfigError(f"{source}: federation: got {federation!r}, should be a section of keys")
    seed = federation.get("seed")
    if seed is None or seed in spec.seeds:
        raise ConfigError(
            f"{source}: federation.seed: got {seed}, should be a seed that is not compared ({_words(spec.seeds)}), so "
            "that no method is tuned on the clients it is judged by"
        )
    check_known(spec.methods, federation, source=f"{source}: federation")
    for name in spaces:
        if name not in spec.methods:
            config_class(name)  # spaces of other methods are fine, but not those of a misspelt one
    settings = {key: value for key, value in values.items() if key not in ("methods", "federation")}
    for key in ("finalists", "objectives", "constraint", "start_from", "enqueue"):
        if key in settings:
            raise ConfigError(f"{source}: {key}: methods are tuned for accuracy alone; give this key to tune.py")
    fixed = set(flatten(shared_part(overrides)))
    tuning = {}
    for method in spec.methods:
        where = f"{source}: methods.{method}"
        base = merge(method_values(method, spec.base, spec.own[method]), method_values(method, federation, {}))
        entries = spaces[method] or {} if method in spaces else _default_entries(base, where)
        own_fixed = fixed | set(flatten((overrides.get("methods") or {}).get(method) or {}))
        for key in entries:
            check_own_key(method, str(key), source)
        space = {key: entry for key, entry in entries.items() if key not in own_fixed}
        if space:
            tuning[method] = parse_sweep({**settings, "federation": base, "space": space}, trials=trials, source=where)
            check_effects(tuning[method], source=source, changed=True)
    return tuning


def shared_part(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a file or of ``--set`` that are for all methods."""
    return {key: value for key, value in values.items() if key != "methods"}


def check_own_key(method: str, key: str, source: str) -> None:
    """Raise ConfigError if the method may not have a value of its own for this key."""
    where = f"{source}: methods.{method}"
    check_known([method], {key: None}, source=where)
    if key in common_keys() and key not in OWN_KEYS:
        raise ConfigError(f"{where}.{key}: all methods of a comparison have the same {key}; set it outside 'methods'")


def _default_entries(base: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the space of a method that the file does not name: its learning rate, and numbers that only it has."""
    config = federation_config(base, source=where)
    own = [key for key in dotted_keys(type(config)) if key not in common_keys()]
    entries = default_space(config, ["prompt_lr", *own])
    logger.info("%s: there is no space; tuning %s around their values", where, _words(entries))
    return entries


def _words(values: Iterable[Any]) -> str:
    return ", ".join(str(value) for value in values)
