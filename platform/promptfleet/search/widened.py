"""A study whose space has got further choices: its trials are copied into a study of the larger space."""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from promptfleet.search.samplers import distribution
from promptfleet.search.space import Parameter
from promptfleet.search.study import SweepStudy
from promptfleet.search.study_file import FILE

BESIDE = "study.widened"  # a folder, which is removed when all is done


def open_widened(folder: Path, open_in: Callable[[Path], SweepStudy], space: Mapping[str, Parameter]) -> SweepStudy:
    """Return the study in ``folder``, which ``open_in`` opens, with the choices of ``space``.

    Optuna keeps the choices of a study forever, so trials with fewer of them are copied into a new one, which takes the
    place of the old one at once. Numbers, states and values of trials stay. Raises DataError, see ``SweepStudy``.
    """
    study = open_in(folder)
    trials = study.trials()
    wanted = {key: distribution(parameter) for key, parameter in space.items()}
    if all(spread == wanted[key] for trial in trials for key, spread in trial.distributions.items()):
        return study
    beside = folder / BESIDE
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    wider = open_in(beside)
    for trial in trials:
        wider.adopt(trial)
    os.replace(beside / FILE, folder / FILE)
    shutil.rmtree(beside)
    return open_in(folder)
