"""Stages of a run of Ray Tune: the trials of one study each, every stage after the ones before it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from promptfleet.config import FederationConfig, StorageConfig
from promptfleet.search.folders import trial_folder
from promptfleet.search.study import Proposal, SweepStudy
from promptfleet.search.study_file import FILE as STUDY_FILE
from promptfleet.storage.remote import bring_file
from promptfleet.tracking.federation_run import FederationRun

STAGE, NUMBER, PARAMS, SETTLED, SEEDS = "stage", "trial_number", "params", "settled_rounds", "seeds"
JUDGED_BY = "judged_by"  # the name of the objective
FEDERATION, FOLDER = "federation", "folder"  # it is one under ``storage.folder``


class ParentRun(Protocol):
    """MLflow run that a stage's trials are nested in, see ``promptfleet.tracking.sweep_run.SweepRun``."""

    id: str

    def child(self, trial_number: int, params: Mapping[str, Any], config: FederationConfig) -> FederationRun: ...


@dataclass(frozen=True)
class Stage:
    """Trials of one study. ``name`` is the word for one of them: ``trial``, in front of its number.

    config gives the federation of a trial's params; it is called only after all earlier stages are over.
    """

    name: str
    folder: Path
    study: SweepStudy
    config: Callable[[Mapping[str, Any]], FederationConfig]
    parent: ParentRun | None
    storage: StorageConfig
    seeds: int = 1  # of the federations of a trial

    def keep_study(self) -> None:
        """Upload the study if ``storage.path`` is an address, before any work depends on it."""
        bring_file(self.storage, self.folder / STUDY_FILE)

    def trial(self, proposal: Proposal) -> dict[str, Any]:
        """Return all inputs of a trial, which Tune pickles; no process validates its configuration again."""
        return {
            STAGE: self.name,
            NUMBER: proposal.number,
            PARAMS: dict(proposal.params),
            SETTLED: proposal.settled_rounds,
            SEEDS: self.seeds,
            JUDGED_BY: self.study.objective.name,
            FEDERATION: self.config(proposal.params),
            FOLDER: self.storage.name_of(trial_folder(self.folder, proposal.number)),
        }
