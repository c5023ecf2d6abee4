"""Samplers, which propose trials: Optuna's by name, or one from elsewhere as ``module:Class``.

A sampler is made for each trial from the search's seed and the trial's number, and sees the earlier trials as they are
on disk. So a proposal is a function of both, and a search that was killed proposes what it would have.
"""

import inspect
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from types import NoneType
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, PartialFixedSampler, QMCSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from promptfleet.errors import ConfigError, did_you_mean, first_line
from promptfleet.imported import imported
from promptfleet.search.conditions import is_active
from promptfleet.search.goals import Goals
from promptfleet.search.space import Choice, IntRange, Parameter

GRID = "grid"
OPTUNA = {
    "tpe": "TPESampler",
    "gp": "GPSampler",
    "cmaes": "CmaEsSampler",
    "random": "RandomSampler",
    "qmc": "QMCSampler",
    "nsga2": "NSGAIISampler",
}
SAMPLERS = (*OPTUNA, GRID)
_OWN_KEYS = {"seed": "seed", "n_startup_trials": "startup_trials"}  # of a search file
_DEPRECATED = {
    *("consider_prior", "consider_magic_clip", "consider_endpoints", "restart_strategy", "inc_popsize", "sigma0"),
}
_PLAIN = {"bool": bool, "int": int, "float": (int, float), "str": str, "None": NoneType}


class NumberedSequence(QMCSampler):
    """A quasi-random sequence whose point is that of the trial's number; Optuna's counts in the study's attributes."""

    def __init__(self, space: Mapping[str, Parameter], number: int, **options: Any):
        super().__init__(**options)
        self._space = space
        self._number = number

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {key: distribution(parameter) for key, parameter in self._space.items()}

    def _find_sample_id(self, study: optuna.Study, search_space: Mapping[str, BaseDistribution]) -> int:
        return self._number


def distribution(parameter: Parameter) -> BaseDistribution:
    """Return a parameter as a study stores it."""
    if isinstance(parameter, Choice):
        return CategoricalDistribution(parameter.values)
    if isinstance(parameter, IntRange):
        return IntDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log)


def check_sampler(
    name: str,
    options: Mapping[str, Any],
    space: Mapping[str, Parameter],
    goals: Goals,
    *,
    startup_trials: int,
    source: str,
) -> None:
    """Raise ConfigError if there is no such sampler, or it does not take ``options`` or ``space``.

    A sampler with options has to propose trials here, so that an option it cannot work with is found now.
    """
    if name == GRID:
        if options:
            raise ConfigError(f"{source}: sampler_options: sampler grid has none")
        return
    if name == "cmaes" and (goals.are_several or goals.constraints):
        what = "objectives" if goals.are_several else "constraint"
        raise ConfigError(f"{source}: {what}: sampler cmaes has one objective and no constraints; take tpe or nsga2")
    if ":" not in name and name not in OPTUNA:
        hint = did_you_mean(name, SAMPLERS) or f"there are: {', '.join(SAMPLERS)}, and module:Class"
        raise ConfigError(f"{source}: sampler: unknown sampler {name!r}; {hint}")
    kind = _sampler_class(name)
    if name == "cmaes" and find_spec("cmaes") is None:
        raise ConfigError(f"{source}: sampler: cmaes needs the package cmaes, which is not installed")
    _check_options(name, options, _options_of(kind, any_value=":" in name), source)
    if not options and ":" not in name:
        return
    try:
        _rehearse(name, options, space, startup_trials)
    except Exception as error:
        raise ConfigError(f"{source}: sampler_options: sampler {name} cannot use them ({first_line(error)})") from error


def make_sampler(
    name: str,
    options: Mapping[str, Any],
    space: Mapping[str, Parameter],
    *,
    seed: int,
    number: int,
    startup_trials: int,
    fixed: Mapping[str, Any] | None = None,
) -> BaseSampler:
    """Return the sampler of trial ``number``; ``fixed`` are values that this trial has instead of drawing them."""
    if name == "qmc":
        sampler = NumberedSequence(space, number, **{"scramble": True, "seed": seed, **options})
    else:
        kind = _sampler_class(name)
        own = {
            "seed": int(np.random.SeedSequence([seed, number]).generate_state(1)[0]),
            "n_startup_trials": startup_trials,
        }
        known = inspect.signature(kind).parameters
        if name == "tpe" and any(parameter.when for parameter in space.values()):
            own["group"] = options.get("multivariate") is not False  # learns from trials that have the same keys
        sampler = kind(**{key: value for key, value in own.items() if key in known} | dict(options))
    return PartialFixedSampler(dict(fixed), sampler) if fixed else sampler


def ask(
    sampler: BaseSampler,
    trials: Sequence[FrozenTrial],
    space: Mapping[str, Parameter],
    directions: Sequence[str] = ("maximize",),
) -> FrozenTrial:
    """Return the trial that ``sampler`` proposes after ``trials``, which stay as they are.

    The caller stores the sampler's notes on it, see ``notes``: CMA-ES and NSGA-II continue from them.
    """
    draft = optuna.create_study(directions=directions, sampler=sampler)
    draft.add_trials(trials)
    trial = draft.ask()
    for key, parameter in space.items():
        if is_active(parameter, trial.params):
            _suggest(trial, key, parameter)
    return draft.get_trials(deepcopy=False)[-1]


def notes(asked: FrozenTrial) -> dict[str, Any]:
    """Return the sampler's notes on the trial, without the trial's parameters."""
    return {key: value for key, value in asked.system_attrs.items() if "relative_params" not in key}


def _suggest(trial: optuna.Trial, key: str, parameter: Parameter) -> None:
    if isinstance(parameter, Choice):
        trial.suggest_categorical(key, parameter.values)
    elif isinstance(parameter, IntRange):
        trial.suggest_int(key, parameter.low, parameter.high, step=parameter.step, log=parameter.log)
    else:
        trial.suggest_float(key, parameter.low, parameter.high, log=parameter.log)


def _sampler_class(name: str) -> type[BaseSampler]:
    """Return the class of a sampler. Raises ConfigError: ``module:Class`` cannot be imported, or is no sampler."""
    if name in OPTUNA:
        return getattr(optuna.samplers, OPTUNA[name])
    found = imported(name, kind="sampler")
    if not (isinstance(found, type) and issubclass(found, BaseSampler)):
        raise ConfigError(f"sampler {name!r} is not a subclass of optuna.samplers.BaseSampler")
    return found


def _options_of(kind: type[BaseSampler], *, any_value: bool) -> dict[str, tuple[str, ...] | None]:
    """Return the options that a file can give, with the types of each, None for any."""
    options: dict[str, tuple[str, ...] | None] = {}
    for name, parameter in inspect.signature(kind).parameters.items():
        types = tuple(str(parameter.annotation).split(" | "))
        if name in _OWN_KEYS or name in _DEPRECATED or name.startswith("warn_"):
            continue
        if any_value:
            options[name] = None
        elif set(types) <= _PLAIN.keys():
            options[name] = types
    return options


def _check_options(
    name: str, options: Mapping[str, Any], known: Mapping[str, tuple[str, ...] | None], source: str
) -> None:
    for key, value in options.items():
        if key in _OWN_KEYS and key not in known:
            raise ConfigError(f"{source}: sampler_options: {key} is the key {_OWN_KEYS[key]!r} of a search file")
        if key not in known:
            there_are = f"there are: {', '.join(known)}" if known else "it has none"
            hint = did_you_mean(key, known) or there_are
            raise ConfigError(f"{source}: sampler_options: unknown option {key!r} of sampler {name}; {hint}")
        types = known[key]
        if types is not None and not any(_is_of(value, kind) for kind in types):
            wanted = " or ".join("null" if kind == "None" else kind for kind in types)
            raise ConfigError(f"{source}: sampler_options: {key}: got {value!r}, should be {wanted}")


def _is_of(value: Any, kind: str) -> bool:
    return isinstance(value, _PLAIN[kind]) and (kind == "bool" or not isinstance(value, bool))


def _rehearse(name: str, options: Mapping[str, Any], space: Mapping[str, Parameter], startup_trials: int) -> None:
    """Let the sampler propose its first trials and the ones that it learns from."""
    trials: list[FrozenTrial] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(startup_trials + 2):
            sampler = make_sampler(name, options, space, seed=0, number=number, startup_trials=startup_trials)
            asked = ask(sampler, trials, space)
            trials.append(
                create_trial(
                    state=TrialState.COMPLETE,
                    value=float(number % 2),
                    params=asked.params,
                    distributions=asked.distributions,
                    system_attrs=notes(asked),
                )
            )
