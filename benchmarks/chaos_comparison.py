"""Comparison of a disturbed job with the undisturbed one: results, study and MLflow, trial by trial."""

import json
import sqlite3
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Tally:
    """Count of shots, and their effects over all disturbed jobs."""

    kills: Counter[tuple[str, str]] = field(default_factory=Counter)  # by kind and signal
    federations: int = 0
    equal: int = 0
    rounds_wrong: int = 0
    mlflow_wrong: int = 0
    studies_equal: int = 0
    differences: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)


def compare(results: Path, shelf: str, calm_name: str, name: str, tally: Tally) -> None:
    """Compare the job ``name`` with the undisturbed one, both in ``results/shelf``."""
    calm, storm = results / shelf / calm_name, results / shelf / name
    for path in sorted(calm.glob("trials/*/result.json")):
        wanted, number = json.loads(path.read_text()), path.parent.name
        tally.federations += 1
        try:
            found: dict[str, Any] = json.loads((storm / "trials" / number / "result.json").read_text())
        except OSError as error:
            tally.differences.append(f"{name}: trial {number}: no result ({error})")
            continue
        same = all(found[key] == wanted[key] for key in ("state_sha256", "clients", "val_accuracy", "test_accuracy"))
        tally.equal += same
        rounds = [one["round"] for one in found["rounds"]]
        right = rounds == [one["round"] for one in wanted["rounds"]]
        tally.rounds_wrong += not right
        if not (same and right):
            setting = "the same" if found["config"] == wanted["config"] else "another"
            tally.differences.append(f"{name}: trial {number} differs: rounds {rounds}, of {setting} configuration")
    studies = [study_rows(sweep) for sweep in (calm, storm)]
    tally.studies_equal += studies[0] == studies[1]
    if studies[0] != studies[1]:
        tally.differences.append(f"{name}: the study differs from the undisturbed one: {studies}")
    for line in mlflow_differences(results, shelf, calm_name, name):
        tally.mlflow_wrong += 1
        tally.differences.append(line)


def study_rows(sweep: Path) -> list[tuple]:
    """Return trials, parameters and every reported value from the study's database."""
    with sqlite3.connect(sweep / "study.db") as database:
        return [
            *database.execute("select number, state from trials order by number"),
            *_by_number(database, "param_name, param_value", "trial_params"),
            *_by_number(database, "step, intermediate_value", "trial_intermediate_values"),
            *_by_number(database, "value", "trial_values"),
        ]


def _by_number(database: sqlite3.Connection, columns: str, table: str) -> list[tuple]:
    query = f"select trials.number, {columns} from {table} join trials using (trial_id) order by 1, 2"
    return database.execute(query).fetchall()


def mlflow_differences(results: Path, shelf: str, calm_name: str, name: str) -> list[str]:
    """Return trials of the job whose rounds in MLflow are not each there once, with the undisturbed values."""
    query = """
        select trial.value, m.step, m.value from metrics m
        join tags trial on trial.run_uuid = m.run_uuid and trial.key = 'trial'
        join tags parent on parent.run_uuid = m.run_uuid and parent.key = 'mlflow.parentRunId'
        join tags sweep on sweep.run_uuid = parent.value and sweep.key = 'promptfleet.key' and sweep.value = ?
        where m.key = 'val/accuracy_mean' order by 1, 2
    """
    with sqlite3.connect(results / "mlflow.db") as database:
        calm, storm = (
            database.execute(query, (f"{shelf.removesuffix('s')}/{one}",)).fetchall() for one in (calm_name, name)
        )
    return [f"{name}: MLflow has {row} of trial, round, accuracy" for row in sorted(set(calm) ^ set(storm))] or (
        [f"{name}: MLflow has a duplicate round"] if len(storm) != len(set(storm)) else []
    )
