"""A search space for a method that no file has one for."""

import math
from collections.abc import Iterable
from typing import Any

from promptfleet.config import FederationConfig, dotted_fields, flatten

FACTOR = 10.0


def default_space(config: FederationConfig, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return a space of those ``keys`` that hold a positive real number, by dotted key as a search file has it.

    Each ranges from a tenth to ten times its value in ``config``, on a log scale, within its bounds. Integers, choices
    and zeros keep their values: what they may be depends on other keys, or has no scale.
    """
    values, wanted = flatten(config.to_dict()), set(keys)
    numbers = {
        key: (values[key], field.metadata)
        for key, field in dotted_fields(type(config))
        if key in wanted and isinstance(values[key], float) and values[key] > 0
    }
    return {key: {"float": _range(value, bounds), "log": True} for key, (value, bounds) in numbers.items()}


def _range(value: float, bounds: Iterable[Any]) -> list[float]:
    """Return the lowest and the highest number to try; ``bounds`` is the metadata of a pydantic field."""
    low, high = (float(f"{end:.3g}") for end in (value / FACTOR, value * FACTOR))
    for bound in bounds:
        low = max(low, getattr(bound, "ge", low), math.nextafter(getattr(bound, "gt", -math.inf), math.inf))
        high = min(high, getattr(bound, "le", high), math.nextafter(getattr(bound, "lt", math.inf), -math.inf))
    return [low, high]
