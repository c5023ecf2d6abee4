"""Print a Markdown table with a row per method and a column per comparison and evaluation set.

    python docs/comparison_table.py own=FOLDER:test/local all=FOLDER:test/global "1 image=OTHER:test/local"

FOLDER has the comparison.json of a finished comparison. Rows are in the order of the first column, best first.
Accuracies are in %, mean and sample standard deviation over seeds. The best of a column is bold; ≈ marks those that
may be as good: p of 0.05 or more in Wilcoxon's test, paired over seeds and clients, after Holm's correction.
FOLDER:ece has the calibration error in %, without a test; FOLDER:trained has the numbers that one client trains,
FOLDER:up the KB that all clients upload in a round, and FOLDER:seconds the time of one federation.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

NOISE = 0.05
COSTS = {
    "trained": lambda score: f"{score['trained_parameters']:,}",
    "up": lambda score: f"{score['uploaded_bytes'] / 1024:.0f}",
    "seconds": lambda score: f"{score['seconds']['mean']:.0f}",
}


def main(*columns: str) -> None:
    cells = {}
    for column in columns:
        label, _, place = column.partition("=")
        folder, _, figure = place.rpartition(":")
        cells[label] = _column(json.loads((Path(folder) / "comparison.json").read_text()), figure)
    methods = {method: None for column in cells.values() for method in column}
    print("| " + " | ".join(["method", *cells]) + " |")
    print("| --- |" + " ---: |" * len(cells))
    for method in methods:
        print("| " + " | ".join([method, *(column.get(method, "") for column in cells.values())]) + " |")


def _column(comparison: Mapping, figure: str) -> dict[str, str]:
    """Return a cell per method, the highest figure first."""
    if figure in COSTS:
        return {score["method"]: COSTS[figure](score) for score in comparison["scores"]}
    figures = {one["method"]: _figures(one, figure) for one in comparison["judgements"]}
    means = {method: one["mean"] for method, one in figures.items() if one is not None}
    differences = comparison["set_differences_to_best"].get(figure, [])
    as_good = {one["method"] for one in differences if one["p_adjusted"] is not None and one["p_adjusted"] >= NOISE}
    best = {one["best"] for one in differences}
    cells = {}
    for method in sorted(means, key=means.get, reverse=figure != "ece"):
        cell = f"{100 * means[method]:.1f} ± {100 * figures[method]['std']:.1f}"
        cells[method] = f"**{cell}**" if method in best else f"{cell} ≈" if method in as_good else cell
    return cells | {method: "-" for method in figures if method not in means}


def _figures(judgement: Mapping, figure: str) -> Mapping | None:
    return judgement["calibration"]["ece"] if figure == "ece" else judgement["sets"].get(figure)


if __name__ == "__main__":
    main(*sys.argv[1:])
