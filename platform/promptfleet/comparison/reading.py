"""Reading of a comparison from a command line, or from its own file. Checked before anything starts."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from promptfleet.assignments import parse_assignments
from promptfleet.class_texts import with_texts_of_files
from promptfleet.comparison.impossible import with_valid_methods
from promptfleet.comparison.spec import ComparisonSpec, shared_values
from promptfleet.comparison.tuning_file import check_own_key, read_tuning, shared_part
from promptfleet.config import StorageConfig, flatten, merge, text_keys
from promptfleet.errors import ConfigError
from promptfleet.federation.file_contents import with_file_contents
from promptfleet.federation.settings import check_known, read_config, text_keys_of
from promptfleet.methods import METHODS, OTHER_NAMES, config_class
from promptfleet.search.spec import kept_at, parse_sweep

ALL = "all"


def parse_methods(text: str) -> tuple[str, ...]:
    """Parse ``coop,promptfl`` or ``all``. Raises ConfigError: none, a duplicate, or one that does not exist."""
    names = tuple(METHODS) if text.strip() == ALL else tuple(OTHER_NAMES.get(name, name) for name in _list(text))
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
    possible_only: bool = False,
    trust_code: bool = False,
) -> ComparisonSpec:
    """Read a configuration file, ``key=value`` assignments (which win) and a file of search spaces.

    A key that only some methods know is for those; under ``methods: {NAME: {...}}`` a method has its own values. The
    ``method`` and ``seed`` of a file for a single federation are ignored. With ``possible_only``, methods that the
    values do not allow are left out.

    Raises:
        ConfigError: what is wrong, in which file or option, and what would be right; trust_code: see ``read_config``.
    """
    if concurrent < 1:
        raise ConfigError(f"--concurrent: got {concurrent}, should be at least 1")
    values, overrides = read_values(path, assignments, methods, trust_code=trust_code)
    spec = ComparisonSpec(tuple(methods), tuple(seeds), {}, {}, concurrent_trials=concurrent)
    spec = with_values(spec, values, possible_only=possible_only)
    return with_tuning(spec, tune, overrides, trials, trust_code=trust_code)


def read_values(
    path: str | Path | None, assignments: Sequence[str], methods: Sequence[str], *, trust_code: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return nested values of a file and of ``--set``, which win, and those of ``--set`` alone. Raises ConfigError."""
    from_file = read_config(path, trust_code=trust_code) if path is not None else {}
    overrides = parse_assignments(assignments, _text_keys(methods))
    if from_file.pop("method", None):  # of a preset for a single federation
        from_file.pop("seed", None)
    for values, source in ((from_file, str(path)), (overrides, "--set")):
        _check_values(values, methods, source)
    return merge(from_file, overrides), overrides


def with_values(spec: ComparisonSpec, values: Mapping[str, Any], *, possible_only: bool = False) -> ComparisonSpec:
    """Return the comparison with values of a file or of ``--set``, which win over its own. Raises ConfigError."""
    given = values.get("methods") or {}
    own = {method: merge(spec.own.get(method) or {}, given.get(method) or {}) for method in spec.methods}
    own = {method: with_texts_of_files(values) for method, values in own.items()}
    base = dict(with_file_contents(merge(spec.base, shared_part(values))))
    spec = replace(spec, base=base, own=own)
    spec = with_valid_methods(spec) if possible_only else spec
    _check_shared(spec)
    return spec


def with_tuning(
    spec: ComparisonSpec, tune: str | Path | None, overrides: Mapping[str, Any], trials: int | None, *, trust_code: bool
) -> ComparisonSpec:
    """Return the comparison with a search per method, by the file ``tune`` if there is one. Raises ConfigError."""
    if tune is None:
        if trials is not None:
            raise ConfigError("--trials: belongs to the tuning, so it needs --tune FILE")
        return spec
    file = read_config(tune, trust_code=trust_code, closed=("methods",))
    return replace(spec, tuning=read_tuning(file, str(tune), spec, overrides, trials))


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
        left_out = values.get("left_out", {})
        spec = ComparisonSpec(methods, seeds, values["federation"], own, tuning, values["concurrent_trials"], left_out)
        _check_shared(spec)
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: not as it was written ({type(error).__name__}: {error})") from None
    return spec


def _text_keys(methods: Sequence[str]) -> dict[str, bool]:
    own = {
        f"methods.{method}.{key}": optional
        for method in methods
        for key, optional in text_keys(config_class(method)).items()
    }
    return {**text_keys_of(methods), **own}


def _check_values(values: Mapping[str, Any], methods: Sequence[str], source: str) -> None:
    own = values.get("methods") or {}
    if not isinstance(own, Mapping) or not all(isinstance(entry, Mapping | None) for entry in own.values()):
        raise ConfigError(f"{source}: methods: should be {{NAME: {{key: value, ...}}}}")
    for method, entry in own.items():
        if method not in methods:
            config_class(method)  # another method's values may be there, but not an unknown one's
            continue
        for key in flatten(entry or {}):
            check_own_key(method, key, source)
    for key in ("method", "seed"):
        if key in values:
            raise ConfigError(f"{source}: {key}: a comparison has several; use --{key}s")
    check_known(methods, shared_part(values), source=source)


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


def _list(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _refuse_repeated(option: str, words: Sequence[str]) -> None:
    for word in words:
        if words.count(word) > 1:
            raise ConfigError(f"{option}: {word} is a duplicate")
