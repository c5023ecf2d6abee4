"""Plan of a comparison: methods, seeds, shared values, and each method's own values. Checked before anything starts."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from promptfleet.assignments import parse_assignments
from promptfleet.config import (
    EXECUTION_SECTIONS,
    FederationConfig,
    StorageConfig,
    dotted_keys,
    flatten,
    merge,
    nest,
    text_keys,
)
from promptfleet.errors import ConfigError
from promptfleet.federation.partitioning import with_partition_fingerprint
from promptfleet.federation.settings import check_known, federation_config, read_config, text_keys_of, values_for
from promptfleet.methods import METHODS, config_class
from promptfleet.search.default_space import default_space
from promptfleet.search.spec import SweepSpec, kept_at, parse_sweep

logger = logging.getLogger(__name__)

ALL = "all"
# keys of all methods for which each may have its own value: the form of its prompt and its training
OWN_KEYS = (
    "prompt_length",
    "class_token_position",
    "class_specific_context",
    "prompt_lr",
    "momentum",
    "weight_decay",
)


@dataclass(frozen=True)
class ComparisonSpec:
    """A checked comparison. ``base`` are nested values for all methods that know them, ``own`` those of one method.

    ``tuning`` has a search per method, run before the comparison; a method without one keeps its own values.
    """

    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    base: Mapping[str, Any]
    own: Mapping[str, Mapping[str, Any]]
    tuning: Mapping[str, SweepSpec] = field(default_factory=dict)
    concurrent_trials: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for the comparison's file: ``load_comparison`` gives the same comparison back."""
        return {
            "seeds": list(self.seeds),
            "concurrent_trials": self.concurrent_trials,
            "federation": dict(self.base),
            "methods": {method: dict(self.own.get(method, {})) for method in self.methods},
            "tuning": {method: sweep.to_dict() for method, sweep in self.tuning.items()},
        }

    def named_code(self) -> list[str]:
        """Return the names of the methods and the samplers, which may be code outside promptfleet."""
        return [*self.methods, *(sweep.settings.sampler for sweep in self.tuning.values())]

    def config(self, method: str, seed: int, tuned: Mapping[str, Any] | None = None) -> FederationConfig:
        """Return the federation of one method and seed; ``tuned`` values by dotted key win over the method's own."""
        values = method_values(method, self.base, self.own.get(method, {}))
        for key, value in (tuned or {}).items():
            values = merge(values, nest(key, value))
        return federation_config({**values, "seed": seed}, source=f"method {method}")

    def configs(self) -> Iterator[FederationConfig]:
        """Yield every federation of the comparison before tuning, seed by seed."""
        for seed in self.seeds:
            yield from (self.config(method, seed) for method in self.methods)

    def all_configs(self) -> Iterator[FederationConfig]:
        """Yield the same, and every extreme federation of the tuning."""
        yield from self.configs()
        for method, sweep in self.tuning.items():
            yield from sweep.extreme_configs(f"tuning of {method}")


def parse_methods(text: str) -> tuple[str, ...]:
    """Parse ``coop,promptfl`` or ``all``. Raises ConfigError: none, a duplicate, or one that does not exist."""
    names = tuple(METHODS) if text.strip() == ALL else _list(text)
    if not names:
        raise ConfigError(f"--methods: name at least one method, or all; there are: {', '.join(METHODS)}")
    _refuse_repeated("--methods", names)
    for name in names:
        config_class(name)
    return names


def parse_seeds(text: str) -> tuple[int, ...]:
    """Parse ``0,1,2``. Raises ConfigError: none, a duplicate, or something that is no seed."""
    words = _list(text)
    if not words:
        raise ConfigError("--seeds: name at least one seed, for example --seeds 0,1,2")
    _refuse_repeated("--seeds", words)
    for word in words:
        if not word.isascii() or not word.isdecimal():
            raise ConfigError(f"--seeds {text}: {word!r} is no seed; write integers of 0 or more, such as 0,1,2")
    return tuple(int(word) for word in words)


def read_comparison(
    path: str | Path | None,
    assignments: Sequence[str] = (),
    *,
    methods: Sequence[str],
    seeds: Sequence[int],
    tune: str | Path | None = None,
    trials: int | None = None,
    concurrent: int = 1,
    trust_code: bool = False,
) -> ComparisonSpec:
    """Read a configuration file, ``key=value`` assignments (which win) and a file of search spaces.

    A key that only some methods know is for those; under ``methods: {NAME: {...}}`` a method has its own values. The
    ``method`` and ``seed`` of a file for a single federation are ignored.

    Raises:
        ConfigError: what is wrong, in which file or option, and what would be right; trust_code: see ``read_config``.
    """
    if concurrent < 1:
        raise ConfigError(f"--concurrent: got {concurrent}, should be at least 1")
    from_file = read_config(path, trust_code=trust_code) if path is not None else {}
    overrides = parse_assignments(assignments, _text_keys(methods))
    if from_file.pop("method", None):  # of a preset for a single federation
        from_file.pop("seed", None)
    for values, source in ((from_file, str(path)), (overrides, "--set")):
        _check_values(values, methods, source)
    values = merge(from_file, overrides)
    own = {method: values.get("methods", {}).get(method) or {} for method in methods}
    base = dict(with_partition_fingerprint(_shared_part(values)))
    spec = ComparisonSpec(tuple(methods), tuple(seeds), base, own, concurrent_trials=concurrent)
    _check_shared(spec)
    if tune is None:
        if trials is not None:
            raise ConfigError("--trials: belongs to the tuning, so it needs --tune FILE")
        return spec
    tuning = _read_tuning(
        read_config(tune, trust_code=trust_code, closed=("methods",)), str(tune), spec, overrides, trials
    )
    return ComparisonSpec(tuple(methods), tuple(seeds), base, own, tuning, concurrent)


def load_comparison(path: Path, storage: StorageConfig, *, trust_code: bool = False) -> ComparisonSpec:
    """Return the comparison that ``to_dict`` was written from, with its present storage.

    Raises ConfigError: it was changed; trust_code: see ``read_config``.
    """
    values = kept_at(storage, read_config(path, trust_code=trust_code, closed=("tuning",)))
    try:
        tuning = {
            method: parse_sweep(kept_at(storage, sweep), source=f"{path}: tuning.{method}")
            for method, sweep in values["tuning"].items()
        }
        methods, seeds, own = tuple(values["methods"]), tuple(values["seeds"]), values["methods"]
        spec = ComparisonSpec(methods, seeds, values["federation"], own, tuning, values["concurrent_trials"])
        _check_shared(spec)
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: not as it was written ({type(error).__name__}: {error})") from None
    return spec


def method_values(method: str, base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values of a method's federation: its part of ``base``, and its own."""
    return merge(values_for(method, base), own)


def shared_values(config: FederationConfig) -> dict[str, Any]:
    """Return the values that all methods of a comparison must share, by dotted key; the seed is one of them."""
    return {
        key: value
        for key, value in flatten(config.to_dict()).items()
        if key in _common_keys()
        and key not in OWN_KEYS
        and key != "method"
        and key.split(".")[0] not in EXECUTION_SECTIONS
    }


@cache
def _common_keys() -> frozenset[str]:
    return frozenset(dotted_keys(FederationConfig))


def _text_keys(methods: Sequence[str]) -> dict[str, bool]:
    own = {
        f"methods.{method}.{key}": optional
        for method in methods
        for key, optional in text_keys(config_class(method)).items()
    }
    return {**text_keys_of(methods), **own}


def _shared_part(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != "methods"}


def _check_values(values: Mapping[str, Any], methods: Sequence[str], source: str) -> None:
    own = values.get("methods") or {}
    if not isinstance(own, Mapping) or not all(isinstance(entry, Mapping | None) for entry in own.values()):
        raise ConfigError(f"{source}: methods: should be {{NAME: {{key: value, ...}}}}")
    for method, entry in own.items():
        if method not in methods:
            config_class(method)  # another method's values may be there, but not an unknown one's
            continue
        for key in flatten(entry or {}):
            _check_own_key(method, key, source)
    for key in ("method", "seed"):
        if key in values:
            raise ConfigError(f"{source}: {key}: a comparison has several; use --{key}s")
    check_known(methods, _shared_part(values), source=source)


def _check_own_key(method: str, key: str, source: str) -> None:
    where = f"{source}: methods.{method}"
    check_known([method], {key: None}, source=where)
    if key in _common_keys() and key not in OWN_KEYS:
        raise ConfigError(f"{where}.{key}: all methods of a comparison have the same {key}; set it outside 'methods'")


def _check_shared(spec: ComparisonSpec) -> None:
    """Raise ConfigError if one of the federations is not valid, or the methods' defaults differ in a shared key."""
    configs = list(spec.configs())
    first = shared_values(configs[0])
    for config in configs[: len(spec.methods)]:
        for key, value in shared_values(config).items():
            if value != first[key]:
                raise ConfigError(
                    f"{key}: {configs[0].method} has {first[key]!r} and {config.method} {value!r}; "
                    f"set one value for all, for example --set {key}={first[key]}"
                )


def _read_tuning(
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
    fixed = set(flatten(_shared_part(overrides)))
    tuning = {}
    for method in spec.methods:
        where = f"{source}: methods.{method}"
        base = merge(method_values(method, spec.base, spec.own[method]), method_values(method, federation, {}))
        entries = spaces[method] or {} if method in spaces else _default_entries(base, where)
        own_fixed = fixed | set(flatten((overrides.get("methods") or {}).get(method) or {}))
        for key in entries:
            _check_own_key(method, str(key), source)
        space = {key: entry for key, entry in entries.items() if key not in own_fixed}
        if space:
            tuning[method] = parse_sweep({**settings, "federation": base, "space": space}, trials=trials, source=where)
    return tuning


def _default_entries(base: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the space of a method that the file does not name: its learning rate, and numbers that only it has."""
    config = federation_config(base, source=where)
    own = [key for key in dotted_keys(type(config)) if key not in _common_keys()]
    entries = default_space(config, ["prompt_lr", *own])
    logger.info("%s: there is no space; tuning %s around their values", where, _words(entries))
    return entries


def _list(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _refuse_repeated(option: str, words: Sequence[str]) -> None:
    for word in words:
        if words.count(word) > 1:
            raise ConfigError(f"{option}: {word} is a duplicate")


def _words(values: Iterable[Any]) -> str:
    return ", ".join(str(value) for value in values)
