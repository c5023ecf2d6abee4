"""A comparison that gets further seeds and methods; what it has stays as it is, so that nothing has to run again."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from promptfleet.comparison.reading import ALL, parse_methods, parse_seeds, read_values, with_tuning, with_values
from promptfleet.comparison.spec import ComparisonSpec
from promptfleet.config import flatten
from promptfleet.errors import ConfigError
from promptfleet.yaml_files import as_yaml

_SHOWN = 3  # keys of which both values are shown


def grown(
    begun: ComparisonSpec,
    *,
    methods: str | None = None,
    seeds: str | None = None,
    config: str | Path | None = None,
    assignments: Sequence[str] = (),
    tune: str | Path | None = None,
    trials: int | None = None,
    trust_code: bool = False,
) -> ComparisonSpec:
    """Return the comparison with what the command line adds.

    ``methods`` and ``seeds`` list all that are compared then, or after a ``+`` those that are added. The other options
    are those of ``read_comparison``, and may only set what the added methods need.

    Raises:
        ConfigError: something of the begun comparison is left out, or has another value, whose key is named.
    """
    together = _all_of("--methods", begun.methods, methods, parse_methods)
    spec = replace(
        begun,
        methods=together,
        seeds=_all_of("--seeds", begun.seeds, seeds, parse_seeds),
        left_out={method: reason for method, reason in begun.left_out.items() if method not in together},
    )
    values, overrides = read_values(config, assignments, spec.methods, trust_code=trust_code)
    spec = with_values(spec, values, possible_only=methods == ALL)
    _refuse_changes({method: _federation(begun, method) for method in begun.methods}, spec, _federation)
    if tune is None:
        if begun.tuning and len(spec.methods) > len(begun.methods):
            raise ConfigError("--methods: the methods of this comparison were tuned; give --tune FILE to tune more")
        spec = with_tuning(spec, None, overrides, trials, trust_code=trust_code)
    else:
        if not begun.tuning:
            raise ConfigError("--tune: the methods of this comparison were not tuned; leave it out")
        spec = with_tuning(spec, tune, overrides, trials, trust_code=trust_code)
        _refuse_changes({method: _tuning(begun, method) for method in begun.methods}, spec, _tuning)
    for method, sweep in spec.tuning.items():
        if (seed := sweep.base_config().seed) in spec.seeds:
            raise ConfigError(f"--seeds: {method} was tuned on the clients of seed {seed}; leave {seed} out")
    return spec


def _all_of(option: str, begun: tuple, text: str | None, parse: Callable[[str], tuple]) -> tuple:
    """Return those that were begun, and those that ``text`` adds to them. Raises ConfigError."""
    if text is None:
        return begun
    if text.lstrip().startswith("+"):
        added = parse(text.replace("+", ""))
        if repeated := [one for one in added if one in begun]:
            raise ConfigError(f"{option} {text}: {_words(repeated)} is compared already")
        return (*begun, *added)
    listed = parse(text)
    if missing := [one for one in begun if one not in listed]:
        new = [one for one in listed if one not in begun]
        raise ConfigError(
            f"{option} {text}: the comparison has {_words(missing)} as well, and nothing is taken out of it; write "
            f"{option} {_words([*begun, *new], ',')}"
        )
    return (*begun, *(one for one in listed if one not in begun))


def _federation(spec: ComparisonSpec, method: str) -> dict[str, Any]:
    return flatten(spec.config(method, spec.seeds[0]).to_dict())


def _tuning(spec: ComparisonSpec, method: str) -> dict[str, Any]:
    return flatten(spec.tuning[method].to_dict(), "tuning.") if method in spec.tuning else {}


def _refuse_changes(
    begun: Mapping[str, Mapping[str, Any]],
    spec: ComparisonSpec,
    values_of: Callable[[ComparisonSpec, str], Mapping[str, Any]],
) -> None:
    """Raise ConfigError if a method of the begun comparison has other values now, naming their keys."""
    changed: dict[str, str] = {}
    for method, before in begun.items():
        now = values_of(spec, method)
        for key in sorted({*before, *now}):
            if before.get(key) != now.get(key):
                changed.setdefault(key, f"{key} ({_shown(before, key)}, now {_shown(now, key)})")
    if changed:
        shown = [*list(changed.values())[:_SHOWN], *list(changed)[_SHOWN:]]
        raise ConfigError(f"a resumed comparison keeps its configuration; these keys differ: {_words(shown)}")


def _shown(values: Mapping[str, Any], key: str) -> str:
    return as_yaml(values[key]) if key in values else "not set"


def _words(values: Iterable[Any], between: str = ", ") -> str:
    return between.join(map(str, values))
