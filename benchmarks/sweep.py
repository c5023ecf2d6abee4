"""Cost of a sweep's trial beyond its rounds: python benchmarks/sweep.py

Runs jobs/tune.py as a user would (pFedMoAP on digits, no early stopping, one trial at a time) and takes the time from
the end of one trial to the end of the next in Optuna's study, less the latter's rounds. The first trial starts the
actors; the others find them there.
"""

import argparse
import json
import statistics
import tempfile
from itertools import pairwise
from pathlib import Path

from measuring import report
from promptfleet.search.folders import trial_folder
from tuning import end_tune, start_tune, sweep_folder, trials_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as storage:
        rows = run(Path(storage), options)
    beyond = [row["beyond_rounds_s"] for row in rows]
    report("trials after the first", rows, as_json=options.json, median_beyond_rounds_s=statistics.median(beyond))


def run(storage: Path, options: argparse.Namespace) -> list[dict[str, float]]:
    search = {
        "trials": options.trials,
        "pruner": "none",
        "federation": {"clients": options.clients, "rounds": options.rounds},
        "space": {"prompt_lr": {"float": [0.01, 0.05]}},
    }
    end_tune(storage, start_tune(storage, search))
    folder, trials = sweep_folder(storage), trials_of(storage)
    rows = []
    for before, trial in pairwise(trials):
        took = (trial.datetime_complete - before.datetime_complete).total_seconds()
        rounds = json.loads((trial_folder(folder, trial.number) / "result.json").read_text())["seconds"]
        rows.append({"trial": trial.number, "took_s": took, "rounds_s": rounds, "beyond_rounds_s": took - rounds})
    return rows


if __name__ == "__main__":
    main()
