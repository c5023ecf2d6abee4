"""Names that distinguish runs."""

from collections.abc import Mapping
from typing import Any

from promptfleet.config import FederationConfig, flatten, result_values
from promptfleet.trial_records import format_value

_SHORT = {"experts": "K", "gating_temperature": "tau", "prompt_length": "L"}  # first in names, in this order
_NAMED = ("method", "dataset", "seed")  # in each name of a federation
_LONGEST = 250  # characters that MLflow keeps


def trial_name(number: int, params: Mapping[str, Any]) -> str:
    """Return ``trial 07  K=4 tau=0.05 L=8 prompt_lr=0.02``, with every searched key."""
    return _cut(f"trial {number:02d}  {_words(params)}".strip())


def federation_name(config: FederationConfig) -> str:
    """Return ``pfedmoap digits seed 0  K=4 rounds=3``, with every key that differs from its default."""
    return _cut(f"{config.method} {config.dataset} seed {config.seed}  {_words(changed_values(config))}".strip())


def changed_values(config: FederationConfig) -> dict[str, Any]:
    """Return the values by dotted key that differ from the method's defaults, apart from those in each name.

    Only values that the result depends on count.
    """
    defaults = flatten(result_values(type(config)().to_dict()))
    values = flatten(result_values(config.to_dict()))
    return {key: value for key, value in values.items() if key not in _NAMED and value != defaults.get(key)}


def _words(values: Mapping[str, Any]) -> str:
    """Return ``K=4 tau=0.05 alpha=0.1``: the last part of each key, or all of it where that is ambiguous."""
    keys = sorted(values, key=lambda key: list(_SHORT).index(key) if key in _SHORT else len(_SHORT))
    last = [key.rsplit(".", 1)[-1] for key in keys]
    shown = [_SHORT.get(key, short if last.count(short) == 1 else key) for key, short in zip(keys, last, strict=True)]
    return " ".join(f"{name}={format_value(values[key])}" for name, key in zip(shown, keys, strict=True))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
