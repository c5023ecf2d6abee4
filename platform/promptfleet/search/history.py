"""Warm start: trials of earlier searches that a new one learns from, kept in a file in its folder."""

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from promptfleet.atomic_files import replacing
from promptfleet.config import FederationConfig, flatten
from promptfleet.databases import sqlite_address
from promptfleet.disks import disk_errors
from promptfleet.errors import ConfigError
from promptfleet.search.budget import QUANTITIES_ATTR
from promptfleet.search.conditions import is_active
from promptfleet.search.folders import SWEEPS, read_begun
from promptfleet.search.samplers import distribution
from promptfleet.search.space import Parameter
from promptfleet.search.spec import FIXED, SweepSpec
from promptfleet.search.study_file import FILE as STUDY_FILE

History = Sequence[FrozenTrial]
FILE = "history.json"
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
_IGNORED = tuple(key for key in FIXED if key.endswith(".") and key != "features.")  # sections that no result depends on

logger = logging.getLogger(__name__)


def collect_history(spec: SweepSpec, *, trust_code: bool = False) -> list[FrozenTrial]:
    """Return the trials of ``start_from`` that are in the space and of the same federation, and log how many and why.

    Raises ConfigError: there is no such study, its federation is not known, or no trial of all can be used.
    """
    found: list[FrozenTrial] = []
    counts: list[str] = []
    reasons: Counter[str] = Counter()
    for source in spec.settings.start_from:
        folder = _folder_of(source, spec)
        earlier = read_begun(spec.base_config().storage, folder, trust_code=trust_code)
        if earlier.goals.objectives != spec.goals.objectives:
            reasons["it has other objectives"] += 1
            continue
        trials = [trial for trial in _trials_of(folder / STUDY_FILE, source) if trial.state in _ENDED]
        taken = []
        for trial in trials:
            try:
                taken.append(_translated(trial, earlier.config, spec))
            except ValueError as reason:
                reasons[str(reason)] += 1
        counts.append(f"start_from {source}: {len(taken)} of {len(trials)} trials are taken")
        found += taken
    if spec.settings.start_from and not found:
        why = reasons.most_common(1)[0][0] if reasons else "no trial has ended there"
        raise ConfigError(f"start_from: no trial of {', '.join(spec.settings.start_from)} can be used: {why}")
    for line in [*counts, *(f"start_from: {count} not taken: {reason}" for reason, count in reasons.most_common())]:
        logger.info("%s", line)
    return found


def write_history(folder: Path, trials: History) -> None:
    """Keep the trials in ``folder``. Raises StorageError."""
    rows = [
        {
            "state": trial.state.name,
            "params": trial.params,
            "values": trial.values,
            "constraints": trial.constraints,
            "rounds": {str(step): value for step, value in trial.intermediate_values.items()},
        }
        for trial in trials
    ]
    with disk_errors(), replacing(folder / FILE) as partial:
        partial.write_text(json.dumps(rows))


def read_history(folder: Path, space: Mapping[str, Parameter]) -> list[FrozenTrial]:
    """Return the trials kept in ``folder``, none where there is no such file. Raises ConfigError: it is damaged."""
    if not (folder / FILE).exists():
        return []
    try:
        return [
            _trial(TrialState[row["state"]], row["params"], row["values"], row["rounds"], space, row["constraints"])
            for row in json.loads((folder / FILE).read_text())
        ]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(f"{folder / FILE}: is damaged ({type(error).__name__}: {error})") from None


def _folder_of(source: str, spec: SweepSpec) -> Path:
    """Return the folder of an earlier search, given by its name or by the path of its study."""
    if not source.endswith(".db"):
        try:
            return SWEEPS.find(spec.base_config().storage, source)
        except ConfigError as error:
            raise ConfigError(str(error).replace("--resume", "start_from", 1)) from None
    folder = Path(source).expanduser().parent
    if Path(source).name != STUDY_FILE or not Path(source).is_file():
        raise ConfigError(f"start_from: {source}: there is no such study; give the {STUDY_FILE} of a sweep's folder")
    if not (folder / SWEEPS.file).is_file():
        raise ConfigError(f"start_from: {source}: has no {SWEEPS.file} next to it, so its federation is not known")
    return folder


def _trials_of(path: Path, source: str) -> list[FrozenTrial]:
    try:
        storage = optuna.storages.get_storage(sqlite_address(path))
        (name,) = optuna.get_all_study_names(storage)
        return optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
    except Exception as error:
        raise ConfigError(f"start_from: {source}: its study cannot be read ({type(error).__name__})") from None


def _translated(
    trial: FrozenTrial, config: Callable[[Mapping[str, Any]], FederationConfig], spec: SweepSpec
) -> FrozenTrial:
    """Return a trial of another search as one of this space. Raises ValueError: why it is none."""
    values = flatten(config(trial.params).to_dict())
    params: dict[str, Any] = {}
    for key, parameter in spec.space.items():
        if is_active(parameter, params):
            if key not in values or not parameter.contains(values[key]):
                raise ValueError(f"{key} is outside of the space")
            params[key] = values[key]
    mine = flatten(spec.config(params).to_dict())
    left_out = {*spec.space, *spec.settings.start_from_ignores}
    for key in mine.keys() | values.keys():
        if key not in left_out and not key.startswith(_IGNORED) and mine.get(key) != values.get(key):
            raise ValueError(f"its federation has another {key}")
    quantities = trial.user_attrs.get(QUANTITIES_ATTR, {})
    if any(one.quantity not in quantities for one in spec.goals.constraints):
        raise ValueError("the quantities of its constraints are not known")
    bounds = spec.goals.violations(quantities)
    return _trial(trial.state, params, trial.values, trial.intermediate_values, spec.space, bounds)


def _trial(
    state: TrialState,
    params: Mapping[str, Any],
    values: Sequence[float] | None,
    rounds: Mapping[Any, float],
    space: Mapping[str, Parameter],
    constraints: Mapping[str, float],
) -> FrozenTrial:
    return create_trial(
        state=state,
        params=dict(params),
        values=values,
        distributions={key: distribution(space[key]) for key in params},
        intermediate_values={int(step): value for step, value in rounds.items()},
        constraints=dict(constraints),
    )
