"""Sweeps on disk, for Python code."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from promptfleet.config import StorageConfig
from promptfleet.search.folders import SWEEPS, read_begun
from promptfleet.search.outcome_files import PROMPTS_FILE
from promptfleet.search.prompts import Prompts, load_prompts
from promptfleet.search.records import trial_records
from promptfleet.search.sweep import best_record, open_study
from promptfleet.search.trials_frame import trials_frame
from promptfleet.trial_records import TrialRecord

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class LoadedSweep:
    """Sweep on disk: its trials so far, and ``best``, a finalist where there are some; None without a complete one.

    ``ties`` are the numbers of trials that are as good as the best one, which is the earliest of them. Of several
    objectives there is no best one, but the trials of ``front``.
    """

    name: str
    folder: Path
    records: Sequence[TrialRecord]
    best: TrialRecord | None
    ties: Sequence[int]
    front: Sequence[int]

    def prompts(self) -> Prompts:
        """Return the prompts of the best trial, see ``load_prompts``."""
        return load_prompts(self.folder / PROMPTS_FILE)

    @property
    def trials(self) -> "DataFrame":
        """Table with one row per trial, see ``trials.csv``."""
        return trials_frame(self.records)


def load_sweep(name: str, *, storage: StorageConfig | None = None, trust_code: bool = False) -> LoadedSweep:
    """Read the sweep of this name under ``storage``, by default ``results``.

    Example, after ``jobs/tune.py --name gating``::

        sweep = promptfleet.load_sweep("gating")
        sweep.best.params  # of the best trial
        sweep.trials.to_parquet("trials.parquet")

    Raises:
        ConfigError: there is none, naming those there are; or it names code outside promptfleet without ``trust_code``.
        DataError: its study cannot be read.
    """
    storage = StorageConfig() if storage is None else storage
    folder = SWEEPS.find(storage, name, option="")
    spec = read_begun(storage, folder, trust_code=trust_code)
    study = open_study(spec, folder)
    records = trial_records(folder, study, spec.config, seeds=spec.settings.seeds_per_trial)
    front = study.front() if spec.goals.are_several else []
    return LoadedSweep(name, folder, records, *best_record(spec, folder, study, records), front)
