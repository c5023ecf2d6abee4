"""Print a Markdown table with a row per method and a column per comparison and evaluation set.

    python docs/comparison_table.py own=FOLDER:test/local last=FOLDER@last:test/local "1 image=OTHER:test/local"

FOLDER is that of a finished comparison, or several joined by +: of a method that is in two, the last one counts.
Figures are of the round with the best validation accuracy, with @last of the last round. Rows are in the order of the
first column, best first. Accuracies are in %, mean and sample standard deviation over seeds. The best of a column is
bold; ≈ marks those that may be as good: p of 0.05 or more in Wilcoxon's test, paired over seeds and clients, after
Holm's correction. FOLDER:ece has the calibration error in %, without a test, FOLDER:trained the numbers that one
client trains, FOLDER:up the KB that all clients upload in a round, and FOLDER:seconds the time of one federation.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean

import numpy as np
from markdown_table import mean_and_std, print_table

from promptfleet.search.paired import holm, paired_test

NOISE = 0.05
COSTS: dict[str, Callable[[Mapping], str]] = {
    "trained": lambda score: f"{score['trained_parameters']:,}",
    "up": lambda score: f"{score['uploaded_bytes'] / 1024:,.0f}",
    "seconds": lambda score: f"{score['seconds']['mean']:.0f}",
}


def main(*columns: str) -> None:
    cells = {}
    for column in columns:
        label, _, place = column.partition("=")
        place, _, figure = place.rpartition(":")
        folders, _, which = place.partition("@")
        places = [Path(folder) for folder in folders.split("+")]
        cells[label] = _costs(places, figure) if figure in COSTS else _figures(places, figure, is_last=which == "last")
    methods = {method: None for column in cells.values() for method in column}
    rows = ([method, *(column.get(method, "") for column in cells.values())] for method in methods)
    print_table(["method", *cells], rows)


def _costs(folders: Sequence[Path], figure: str) -> dict[str, str]:
    scores = [score for folder in folders for score in json.loads((folder / "comparison.json").read_text())["scores"]]
    return {score["method"]: COSTS[figure](score) for score in scores}


def _figures(folders: Sequence[Path], figure: str, *, is_last: bool) -> dict[str, str]:
    """Return a cell per method, the highest figure first; the lowest of calibration errors."""
    seeds = {}
    for folder in folders:
        seeds |= _clients_by_method(folder, figure, is_last=is_last)
    means = {method: [mean(clients) for clients in of.values()] for method, of in seeds.items() if all(of.values())}
    order = sorted(means, key=lambda method: mean(means[method]), reverse=figure != "ece")
    as_good = set() if figure == "ece" else _as_good(seeds, order)
    cells = {}
    for method in order:
        cell = mean_and_std(means[method])
        cells[method] = f"**{cell}**" if method == order[0] else f"{cell} ≈" if method in as_good else cell
    return cells | {method: "-" for method in seeds if method not in means}


def _clients_by_method(folder: Path, figure: str, *, is_last: bool) -> dict[str, dict[int, list[float]]]:
    """Return the clients' figures by method and seed; none for a method without that evaluation set."""
    figures = defaultdict(dict)
    for path in sorted(folder.glob("trials/*/result.json")):
        result = json.loads(path.read_text())
        figures[result["method"]][result["seed"]] = _of_round(
            result["rounds"][-1 if is_last else result["best_round"] - 1], figure
        )
    return {method: dict(sorted(of.items())) for method, of in figures.items()}


def _of_round(report: Mapping, figure: str) -> list[float]:
    """Return the figures of the clients, or the one of the federation where clients have none."""
    if figure == "test/local":
        return report["client_test_accuracy"]
    if figure == "ece":
        return [report["calibration"]["ece"]]
    if figure in report["client_accuracy"]:
        return [one for one in report["client_accuracy"][figure] if one is not None]
    return [report["accuracy"][figure]["mean"]] if figure in report["accuracy"] else []


def _as_good(seeds: Mapping[str, Mapping[int, list[float]]], order: list[str]) -> set[str]:
    """Return the methods whose difference to the best may be noise."""
    of = {method: np.concatenate(list(seeds[method].values())) for method in order}
    p_values = holm([paired_test(of[method] - of[order[0]]) for method in order[1:]])
    return {method for method, p in zip(order[1:], p_values, strict=True) if p >= NOISE}


if __name__ == "__main__":
    main(*sys.argv[1:])
