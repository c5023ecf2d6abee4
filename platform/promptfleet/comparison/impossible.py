"""Methods that cannot run in the setting of a comparison. Where all methods are asked for, they are left out."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from promptfleet.comparison.spec import ComparisonSpec
from promptfleet.errors import PromptfleetError, StorageError

T = TypeVar("T")


def with_valid_methods(spec: ComparisonSpec) -> ComparisonSpec:
    """Return the comparison without the methods whose federations are not valid.

    Raises ConfigError: none is, or one is not that has values of its own.
    """
    reasons = _reasons(spec, lambda one: list(one.configs()))
    named = [method for method in reasons if spec.own.get(method)]
    if named or len(reasons) == len(spec.methods):
        raise reasons[named[0] if named else spec.methods[0]]
    return _without(spec, reasons)


def prepare_possible(
    spec: ComparisonSpec, prepare: Callable[..., T], *, possible_only: bool
) -> tuple[ComparisonSpec, T]:
    """Return the comparison, and what ``prepare`` gives for all its federations, which it checks.

    With ``possible_only``, methods that data and backbone do not allow are left out. Raises PromptfleetError: a method
    is not possible, or none is.
    """
    try:
        return spec, prepare(*spec.all_configs())
    except StorageError:
        raise
    except PromptfleetError:
        if not possible_only:
            raise
        reasons = _reasons(spec, lambda one: prepare(*one.all_configs()))
        if len(reasons) in (0, len(spec.methods)):
            raise
    possible = _without(spec, reasons)
    return possible, prepare(*possible.all_configs())


def _reasons(spec: ComparisonSpec, attempt: Callable[[ComparisonSpec], Any]) -> dict[str, PromptfleetError]:
    """Return the error of ``attempt`` by method, for the comparison of this method alone."""
    reasons = {}
    for method in spec.methods:
        try:
            attempt(replace(spec, methods=(method,), tuning=_part(spec.tuning, [method])))
        except StorageError:
            raise
        except PromptfleetError as error:
            reasons[method] = error
    return reasons


def _without(spec: ComparisonSpec, reasons: Mapping[str, PromptfleetError]) -> ComparisonSpec:
    methods = tuple(method for method in spec.methods if method not in reasons)
    left_out = {**spec.left_out, **{method: _reason(method, error) for method, error in reasons.items()}}
    own, tuning = _part(spec.own, methods), _part(spec.tuning, methods)
    return replace(spec, methods=methods, own=own, tuning=tuning, left_out=left_out)


def _part(by_method: Mapping[str, Any], methods: Any) -> dict[str, Any]:
    return {method: value for method, value in by_method.items() if method in methods}


def _reason(method: str, error: PromptfleetError) -> str:
    return str(error).removeprefix(f"method {method}: ")
