"""Published figures for the same setting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptfleet.comparison.columns import percent
from promptfleet.comparison.scores import MethodScore
from promptfleet.config import flatten
from promptfleet.yaml_files import read_yaml

REFERENCES = {"paper": "paper.yaml"}
HEADERS = ("method", "ours", "paper", "difference")


@dataclass(frozen=True)
class Reference:
    """Published table for the dataset of a comparison. ``accuracy`` in %, mean and deviation by method.

    ``differs`` lists the differences from our setting, as ``rounds=10 (there 120)``; empty if the setting matches.
    """

    name: str
    accuracy: Mapping[str, Sequence[float]]
    differs: tuple[str, ...]
    note: str | None


def references_for(settings: Mapping[str, Any], which: str = "paper") -> list[Reference]:
    """Return the published tables for this dataset. settings: nested values of a federation of the comparison."""
    mine = flatten(settings)
    return [
        Reference(
            name=table["name"],
            accuracy=table["accuracy"][mine["dataset"]],
            differs=tuple(
                f"{key}={mine.get(key)} (there {value})"
                for key, value in table["settings"].items()
                if mine.get(key) != value
            ),
            note=table.get("note"),
        )
        for table in read_yaml(Path(__file__).with_name(REFERENCES[which]))["tables"]
        if mine["dataset"] in table["accuracy"]
    ]


def reference_rows(reference: Reference, scores: Sequence[MethodScore]) -> list[list[str]]:
    """Return a row of cells under ``HEADERS`` for each method that both have."""
    rows = []
    for score in scores:
        if score.method in reference.accuracy:
            mean, std = reference.accuracy[score.method]
            gap = 100 * score.test_accuracy.mean - mean
            rows.append([score.method, percent(score.test_accuracy), f"{mean:.2f} ± {std:.2f}", f"{gap:+.1f}"])
    return rows
