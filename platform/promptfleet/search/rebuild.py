"""Reconstruction of a study from the results of its trials, if its own database is damaged or missing."""

import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from promptfleet.config import FederationConfig, flatten
from promptfleet.errors import PromptfleetError, StorageError
from promptfleet.federation.checkpoints.checkpoint import load_snapshot
from promptfleet.federation.checkpoints.folder import RESULT_FILE, load_summary
from promptfleet.search.conditions import is_active
from promptfleet.search.folders import trial_folder, trial_numbers
from promptfleet.search.objective import objective_of
from promptfleet.search.quantities import RoundFigures
from promptfleet.search.seats import seat_folders, seeded
from promptfleet.search.space import Parameter
from promptfleet.search.study import SweepStudy
from promptfleet.search.study_file import FILE, DamagedStudy

logger = logging.getLogger(__name__)

BESIDE = "study.rebuilt"  # a folder, which is removed when all is done
_JOURNAL = f"{FILE}-journal"
_NO_RESULT = (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError, RecursionError, PromptfleetError)


def rebuild_study(
    folder: Path,
    open_in: Callable[[Path], SweepStudy],
    space: Mapping[str, Parameter],
    config: Callable[[Mapping[str, Any]], FederationConfig],
    *,
    seeds: int = 1,
) -> SweepStudy:
    """Return the study in ``folder``, made from the results of its trials if its database is damaged.

    ``open_in`` opens the study in a folder, ``config`` gives the federation of a trial's params. Early stopping is
    decided again, in the order of the trials' numbers. A trial without a result is proposed again; its folder's files
    of another federation are set aside, and so is the old database.
    """
    try:
        study = open_in(folder)
    except DamagedStudy as error:
        logger.info("%s", error)
    else:
        logger.info("%s: there is nothing to rebuild", folder / FILE)
        return study
    beside = folder / BESIDE
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    study = open_in(beside)
    folders = [trial_folder(folder, number) for number in range(max(trial_numbers(folder), default=-1) + 1)]
    for number, one in enumerate(folders):
        _restore(study, one, space, config, seeds, later=folders[number + 1 :])
    states = [trial.state for trial in study.trials()]
    for name in (_JOURNAL, FILE):  # a journal left would be taken for the new one's
        if os.path.lexists(folder / name):
            (folder / name).rename(_free_name(folder, f"{name}.damaged"))
    os.replace(beside / FILE, folder / FILE)
    shutil.rmtree(beside)
    logger.info(
        "%s: rebuilt with %d trials, %d of them complete and %d stopped early",
        *(folder / FILE, len(states), states.count(TrialState.COMPLETE), states.count(TrialState.PRUNED)),
    )
    return open_in(folder)


def _restore(
    study: SweepStudy,
    folder: Path,
    space: Mapping[str, Parameter],
    config: Callable[[Mapping[str, Any]], FederationConfig],
    seeds: int,
    *,
    later: Sequence[Path],
) -> None:
    try:
        params = _params(folder, space)
        wanted = config(params)
        seats = zip(seeded(wanted, seeds), seat_folders(folder, seeds), strict=True)
        summaries = [load_summary(seat, one.fingerprint()) for one, seat in seats]
    except StorageError:
        raise
    except _NO_RESULT as error:
        logger.warning("%s: has no result that can be used (%s); the trial is run again", folder, error)
        summaries = [None]
    if None not in summaries:
        federations = [summary.rounds for summary in summaries]
        adversaries, done = [summary.adversaries for summary in summaries], min(map(len, federations))
        values, figures = {}, {}
        for index in range(1, done + 1):
            value = objective_of(study.objective, [reports[index - 1] for reports in federations], adversaries)
            if value is not None:
                values[index] = value
                upto = [reports[:index] for reports in federations]
                figures[index] = RoundFigures.of(upto, study.objective, adversaries)
        study.restore(params, values, complete=done == wanted.rounds, figures=figures)
        return
    study.restore(None, others=_readable_params(later, space))
    proposed = study.trials()[-1].params
    try:
        load_snapshot(folder, config(proposed).fingerprint())
    except StorageError:
        raise
    except PromptfleetError:
        folder.rename(_free_name(folder.parent, f"{folder.name}.other"))


def _params(folder: Path, space: Mapping[str, Parameter]) -> dict[str, Any]:
    """Return the searched values of a trial from its result. Raises ValueError, LookupError and the like."""
    values = flatten(json.loads((folder / RESULT_FILE).read_text())["config"])
    params: dict[str, Any] = {}
    for key, parameter in space.items():
        if is_active(parameter, params):
            if not parameter.contains(values[key]):
                raise ValueError(f"{key}={values[key]} is not searched")
            params[key] = values[key]
    return params


def _readable_params(folders: Sequence[Path], space: Mapping[str, Parameter]) -> list[dict[str, Any]]:
    found = []
    for folder in folders:
        with suppress(*_NO_RESULT):
            found.append(_params(folder, space))
    return found


def _free_name(folder: Path, name: str) -> Path:
    names = (folder / (name if number == 1 else f"{name}-{number}") for number in count(1))
    return next(path for path in names if not os.path.lexists(path))
