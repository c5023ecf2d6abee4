"""Tables of a federation's figures for pandas, which is imported at the first call."""

from dataclasses import fields
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame

    from promptfleet.federation.reports import FederationSummary, RoundReport

_COUNTED = ("cohort", "rejected", "dropped", "events")  # collections of a round, of which a table has the size
_LEFT_OUT = (
    "client_val_accuracy",
    "client_test_accuracy",
    "nodes",
    "train_metrics",
    "accuracy",
    "client_accuracy",
    "calibration",
    "set_calibration",
)
_OF_CLIENT = ("num_train", "num_val", "num_test", "val_accuracy", "test_accuracy", "zero_shot_accuracy")


def rounds_frame(summary: "FederationSummary") -> "DataFrame":
    """Return one row per round, see ``FederationSummary.rounds_frame``."""
    from pandas import DataFrame

    return DataFrame([_round_row(report) for report in summary.rounds]).set_index("round")


def clients_frame(summary: "FederationSummary") -> "DataFrame":
    """Return one row per client, see ``FederationSummary.clients_frame``."""
    from pandas import DataFrame

    rows = [
        {
            "client": client.id,
            **{name: _number(getattr(client, name)) for name in _OF_CLIENT},
            **{f"accuracy/{name}": value for name, value in client.accuracy.items()},
            "adversary": client.id in summary.adversaries,
            "held_out": client.held_out,
        }
        for client in summary.clients
    ]
    return DataFrame(rows).set_index("client")


def client_rounds_frame(summary: "FederationSummary") -> "DataFrame":
    """Return one row per round and client, see ``FederationSummary.client_rounds_frame``."""
    from pandas import DataFrame

    rows = [
        {
            "round": report.round,
            "client": client.id,
            "val_accuracy": _number(val),
            "test_accuracy": _number(test),
            "accepted": client.id in {*report.cohort} - {*report.dropped, *report.rejected},
        }
        for report in summary.rounds
        for client, val, test in zip_longest(summary.clients, report.client_val_accuracy, report.client_test_accuracy)
    ]
    return DataFrame(rows).set_index(["round", "client"])


def _round_row(report: "RoundReport") -> dict[str, Any]:
    """Return the scalars of a report, the sizes of its collections, and further figures by name.

    They are ``train/NAME`` for each figure of the method, and ``accuracy/SET``, the mean of each evaluation set. A
    missing number is NaN.
    """
    values = {field.name: getattr(report, field.name) for field in fields(report) if field.name not in _LEFT_OUT}
    values |= {name: len(values[name]) for name in _COUNTED}
    figures = {f"train/{name}": value for name, value in report.train_metrics.items() if name != "loss"}
    sets = {f"accuracy/{name}": one.mean for name, one in report.accuracy.items()}
    return {name: _number(value) for name, value in {**values, **figures, **sets}.items()}


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
