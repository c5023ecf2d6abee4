"""Keys that are searched only when other keys have certain values: ``{float: [0.1, 2.0], when: {gate: attention}}``.

All conditions of a key must hold, each for one of its values, and the keys that they name must be searched in the same
trial. So what a key requires is, for each key above it, a set of values.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from promptfleet.errors import ConfigError, did_you_mean
from promptfleet.search.space import Choice, Parameter, Value

Required = Mapping[str, tuple[Value, ...]]


def parents_first(space: Mapping[str, Parameter], *, source: str) -> dict[str, Parameter]:
    """Return the space with each key after those that its conditions name, otherwise in the file's order.

    Raises:
        ConfigError: a condition names a key that is not searched, or a value that it never has; conditions in a circle;
            conditions that never hold together.
    """
    for key, parameter in space.items():
        for other, values in parameter.when.items():
            _check_condition(space, key, other, values, source)
    ordered: dict[str, Parameter] = {}
    for key in space:
        _add(key, space, ordered, (), source)
    for key in ordered:
        if required(ordered, [key]) is None:
            raise ConfigError(f"{source}: space.{key}.when: is never true: its conditions exclude each other")
    return ordered


def is_active(parameter: Parameter, params: Mapping[str, Any]) -> bool:
    """Return True if a key is searched together with these values of the keys before it."""
    return all(key in params and params[key] in values for key, values in parameter.when.items())


def active(space: Mapping[str, Parameter], params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values in ``params`` that are searched together."""
    found: dict[str, Any] = {}
    for key, parameter in space.items():
        if key in params and is_active(parameter, found):
            found[key] = params[key]
    return found


def required(space: Mapping[str, Parameter], keys: Iterable[str]) -> dict[str, tuple[Value, ...]] | None:
    """Return the values that other keys must have for all of ``keys`` to be searched, None if that is impossible."""
    needed: dict[str, tuple[Value, ...]] = {}
    waiting = list(keys)
    while waiting:
        for other, values in space[waiting.pop()].when.items():
            both = tuple(value for value in values if value in needed.get(other, values))
            if not both:
                return None
            needed[other] = both
            waiting.append(other)
    return needed


def with_fixed(space: Mapping[str, Parameter], fixed: Mapping[str, Any]) -> dict[str, Parameter]:
    """Return the space with some keys fixed to a value, by dotted key: they are not searched any more.

    A condition on such a key is dropped if it holds; if not, the key with that condition is not searched.
    """
    left: dict[str, Parameter] = {}
    gone = set()
    for key, parameter in space.items():
        when = parameter.when
        if any(other in gone or fixed.get(other, when[other][0]) not in when[other] for other in when):
            gone |= {key} - fixed.keys()
        elif key not in fixed:
            left[key] = replace(parameter, when={other: when[other] for other in when if other not in fixed})
    return left


def _check_condition(
    space: Mapping[str, Parameter], key: str, other: str, values: tuple[Value, ...], source: str
) -> None:
    where = f"{source}: space.{key}.when"
    if other not in space:
        hint = did_you_mean(other, space) or f"there are: {', '.join(space)}"
        raise ConfigError(f"{where}: {other} is not searched; {hint}")
    for value in values:
        if not space[other].contains(value):
            hint = ""
            if isinstance(space[other], Choice):
                words = [str(one) for one in space[other].values]
                hint = f"; {did_you_mean(str(value), words) or 'there are: ' + ', '.join(words)}"
            raise ConfigError(f"{where}: {other} is never {value!r}{hint}")


def _add(
    key: str, space: Mapping[str, Parameter], ordered: dict[str, Parameter], below: tuple[str, ...], source: str
) -> None:
    """Add a key after those that its conditions name. Raises ConfigError at a circle."""
    if key in below:
        circle = " -> ".join([*below[below.index(key) :], key])
        raise ConfigError(f"{source}: space.{key}.when: conditions in a circle: {circle}")
    if key not in ordered:
        for other in space[key].when:
            _add(other, space, ordered, (*below, key), source)
        ordered[key] = space[key]
