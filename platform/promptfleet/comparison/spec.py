"""Plan of a comparison: methods, seeds, shared values, and each method's own values."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from promptfleet.config import EXECUTION_SECTIONS, FederationConfig, dotted_keys, flatten, merge, nest
from promptfleet.federation.settings import federation_config, values_for
from promptfleet.search.spec import SweepSpec

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
    ``left_out`` has the methods that the setting does not allow, with the reasons.
    """

    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    base: Mapping[str, Any]
    own: Mapping[str, Mapping[str, Any]]
    tuning: Mapping[str, SweepSpec] = field(default_factory=dict)
    concurrent_trials: int = 1
    left_out: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for the comparison's file: ``load_comparison`` gives the same comparison back."""
        return {
            "seeds": list(self.seeds),
            "concurrent_trials": self.concurrent_trials,
            "federation": dict(self.base),
            "methods": {method: dict(self.own.get(method, {})) for method in self.methods},
            "tuning": {method: sweep.to_dict() for method, sweep in self.tuning.items()},
            "left_out": dict(self.left_out),
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


def method_values(method: str, base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values of a method's federation: its part of ``base``, and its own."""
    return merge(values_for(method, base), own)


def shared_values(config: FederationConfig) -> dict[str, Any]:
    """Return the values that all methods of a comparison must share, by dotted key; the seed is one of them."""
    return {
        key: value
        for key, value in flatten(config.to_dict()).items()
        if key in common_keys()
        and key not in OWN_KEYS
        and key != "method"
        and key.split(".")[0] not in EXECUTION_SECTIONS
    }


@cache
def common_keys() -> frozenset[str]:
    """Return the dotted keys that all methods have."""
    return frozenset(dotted_keys(FederationConfig))
