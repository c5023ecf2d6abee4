"""Print a Markdown table of a sweep over one key and seeds: python docs/ablation_table.py ablation-experts experts 9

The rows are the key's values. Accuracies are in %, on test parts after the last round: the mean over clients, then mean
and sample standard deviation over seeds. *p* is of Wilcoxon's signed-rank test against the row that the last argument
names, on the harmonic mean, paired over seeds and clients, after Holm's correction.
"""

import json
import sys
from collections import defaultdict

import numpy as np
from markdown_table import mean_and_std, print_table

import promptfleet
from promptfleet.search.folders import trial_folder
from promptfleet.search.paired import holm, paired_test

SETS = {"own": "test/local", "all": "test/global", "both": "test/harmonic_local_global"}


def main(name: str, key: str, reference: str) -> None:
    rows = _clients_by_value(name, key.split(","))
    others = [value for value in rows if value != reference]
    p_values = holm(
        [paired_test(_accuracies(rows[value], "both") - _accuracies(rows[reference], "both")) for value in others]
    )
    p_of = dict(zip(others, p_values, strict=True))
    cells = []
    for value, seeds in rows.items():
        means = [mean_and_std(_by_seed(seeds, name).mean(axis=1)) for name in SETS]
        p = _format_p(p_of[value]) if value in p_of else ""
        cells.append([value, *means, _distance_from_uniform(seeds), p])
    print_table([key.replace(",", ", "), *SETS, "from uniform", "p"], cells)


def _clients_by_value(name: str, keys: list[str]) -> dict[str, dict[int, list[dict]]]:
    """Return the clients' results by value of the keys and by seed, in the order of the values."""
    sweep = promptfleet.load_sweep(name)
    rows = defaultdict(dict)
    for record in sorted(sweep.records, key=lambda record: tuple(record.params[key] for key in keys)):
        if record.state != "complete":
            sys.exit(f"trial {record.number} of {name} is {record.state}: resume the sweep first")
        result = json.loads((trial_folder(sweep.folder, record.number) / "result.json").read_text())
        rows[", ".join(str(record.params[key]) for key in keys)][record.params["seed"]] = result["clients"]
    return dict(rows)


def _by_seed(seeds: dict[int, list[dict]], name: str) -> np.ndarray:
    """Return one row of clients' accuracies per seed, in 0..1."""
    return np.array([[client["accuracy"][SETS[name]] for client in seeds[seed]] for seed in sorted(seeds)])


def _accuracies(seeds: dict[int, list[dict]], name: str) -> np.ndarray:
    return _by_seed(seeds, name).ravel()


def _distance_from_uniform(seeds: dict[int, list[dict]]) -> str:
    """Return the largest distance of a client's mean gate weight from 1 / (K + 1), over clients and seeds."""
    weights = [client["described"].get("gate_weights", []) for clients in seeds.values() for client in clients]
    distances = [abs(weight - 1 / len(row)) for row in weights if row for weight in row]
    return f"{max(distances):.3f}" if distances else "-"


def _format_p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


if __name__ == "__main__":
    main(*sys.argv[1:])
