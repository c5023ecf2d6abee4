"""Check that all methods had the same clients, cohorts and budget, by the records of their federations."""

from collections.abc import Mapping
from typing import Any

from promptfleet.comparison.spec import shared_values
from promptfleet.errors import PromptfleetError
from promptfleet.federation.reports import FederationSummary
from promptfleet.federation.settings import federation_config
from promptfleet.methods import load_method
from promptfleet.methods.protocol import Method


class ComparisonError(PromptfleetError):
    """A comparison of methods under different conditions."""


def check_same_conditions(results: Mapping[tuple[str, int], FederationSummary]) -> None:
    """Raise ComparisonError unless the methods of each seed shared partition, cohorts and settings.

    results by method and seed. A method that decides itself how many clients train in a round has its own cohorts.
    """
    first: dict[tuple[int, str], tuple[str, Any]] = {}
    for (method, seed), result in results.items():
        for name, value in conditions(result).items():
            other, wanted = first.setdefault((seed, name), (method, value))
            if value != wanted:
                raise ComparisonError(
                    f"seed {seed}: {other} and {method} cannot be compared: their {name} differ "
                    f"({_short(wanted)} and {_short(value)})"
                )


def conditions(result: FederationSummary) -> dict[str, Any]:
    """Return the values that must be equal: settings, the partition's hash, test parts, rounds and cohorts."""
    found = {
        **shared_values(federation_config(result.config)),
        "partitions": result.partition_sha256,
        "test parts": [client.num_test for client in result.clients],
        "rounds done": len(result.rounds),
    }
    if type(load_method(result.method)).participation is Method.participation:
        found["cohorts"] = [list(report.cohort) for report in result.rounds]
    return found


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
