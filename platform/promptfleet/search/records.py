"""Records of a sweep's trials: the study's values, and the figures of each trial's result on disk."""

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from optuna.trial import FrozenTrial

from promptfleet.config import FederationConfig
from promptfleet.errors import DataError
from promptfleet.federation.checkpoints.folder import load_summary
from promptfleet.federation.reports import FederationSummary
from promptfleet.search.folders import trial_folder
from promptfleet.search.objective import Objective
from promptfleet.search.seats import seat_folders, seeded
from promptfleet.search.study import SweepStudy
from promptfleet.trial_records import TrialRecord

logger = logging.getLogger(__name__)


def trial_records(
    folder: Path, study: SweepStudy, config: Callable[[Mapping[str, Any]], FederationConfig], *, seeds: int = 1
) -> list[TrialRecord]:
    """Return the study's trials as plain values, with the figures of their results."""
    trials = study.trials()
    about = {"objective": study.objective, "began": trials[0].datetime_start if trials else None}
    return [
        trial_record(trial, *trial_summaries(folder, config(trial.params), trial, seeds=seeds), **about)
        for trial in trials
    ]


def trial_summaries(
    folder: Path, config: FederationConfig, trial: FrozenTrial, *, seeds: int
) -> list[FederationSummary | None]:
    """Return the summary of each of the trial's federations, see ``trial_summary``."""
    folders = seat_folders(trial_folder(folder, trial.number), seeds)
    return [_summary(place, one) for place, one in zip(folders, seeded(config, seeds), strict=True)]


def trial_summary(folder: Path, config: FederationConfig, trial: FrozenTrial) -> FederationSummary | None:
    """Return the trial's results so far; None, with a warning, if they are damaged or of another federation."""
    return _summary(trial_folder(folder, trial.number), config)


def _summary(folder: Path, config: FederationConfig) -> FederationSummary | None:
    try:
        return load_summary(folder, config.fingerprint())
    except DataError as error:
        logger.warning("%s", error)
        return None


def trial_record(
    trial: FrozenTrial,
    *summaries: FederationSummary | None,
    objective: Objective | None = None,
    began: datetime | None = None,
) -> TrialRecord:
    """Return a trial of the study as plain values; accuracies are means over its federations.

    The standard error needs the ``objective``, times need the time at which the first trial ``began``.
    """
    found = [summary for summary in summaries if summary is not None]
    attacked = any(summary.adversaries for summary in found)
    return TrialRecord(
        number=trial.number,
        state={"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}.get(trial.state.name, "running"),
        params=dict(trial.params),
        value=trial.values[0] if trial.state.is_finished() and trial.values else None,
        rounds=max(trial.intermediate_values, default=0),
        test_accuracy=fmean(summary.test_accuracy for summary in found) if found else None,
        seconds=sum((summary.seconds for summary in found), 0.0),
        honest_test_accuracy=fmean(summary.honest_test_accuracy for summary in found) if attacked else None,
        feasible=all(by <= 0 for by in trial.constraints.values()),
        values=tuple(trial.values or ()) if len(trial.values or ()) > 1 else (),
        standard_error=_standard_error(found, objective) if objective else None,
        started_s=_seconds(began, trial.datetime_start),
        ended_s=_seconds(began, trial.datetime_complete),
    )


def _standard_error(summaries: Sequence[FederationSummary], objective: Objective) -> float | None:
    """Return that of the mean over the clients of all federations after the last round; None below two values.

    Where the objective is the server's, it is that of the mean over federations.
    """
    last = [(summary.rounds[-1], summary.adversaries) for summary in summaries]
    values = [value for one in last for value in objective.of_clients(*one) if value is not None]
    return stdev(values) / sqrt(len(values)) if len(values) > 1 else None


def _seconds(began: datetime | None, then: datetime | None) -> float | None:
    return None if began is None or then is None else (then - began).total_seconds()
