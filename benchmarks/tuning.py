"""Runs of jobs/tune.py as a user starts them, for the benchmarks of whole searches."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from promptfleet.databases import sqlite_address
from promptfleet.search.study_file import FILE as STUDY_FILE

TUNE = Path(__file__).resolve().parents[1] / "jobs" / "tune.py"
NAME = "benchmark"


def start_tune(storage: Path, search: Mapping[str, Any]) -> subprocess.Popen:
    """Start a search with its results in ``storage``; its messages go to ``tune.log`` there."""
    federation = {**search["federation"], "storage": {"path": str(storage)}}
    path = storage / f"{NAME}.yaml"
    path.write_text(json.dumps({**search, "federation": federation}))  # YAML contains JSON
    with open(storage / "tune.log", "w") as log:
        return subprocess.Popen([sys.executable, str(TUNE), "--search", str(path)], stdout=log, stderr=log)


def end_tune(storage: Path, job: subprocess.Popen) -> None:
    """Wait for the end of a search. Raises SystemExit with its messages if it failed."""
    if job.wait() != 0:
        raise SystemExit((storage / "tune.log").read_text())


def sweep_folder(storage: Path) -> Path:
    """Return the folder of the search in ``storage``."""
    return storage / "sweeps" / NAME


def trials_of(storage: Path) -> list[FrozenTrial]:
    """Return the trials of the search in ``storage``."""
    return optuna.load_study(study_name=None, storage=sqlite_address(sweep_folder(storage) / STUDY_FILE)).trials
