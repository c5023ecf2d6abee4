"""Specification of a sweep: the searched federation, the space, and the budget. Checked before anything starts."""

import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from promptfleet.class_texts import KEYS as KEYS_OF_TEXTS
from promptfleet.config import (
    EXECUTION_SECTIONS,
    FederationConfig,
    Section,
    StorageConfig,
    build,
    dotted_keys,
    flatten,
    merge,
    nest,
    unknown_key,
)
from promptfleet.errors import ConfigError, did_you_mean
from promptfleet.federation.file_contents import with_file_contents
from promptfleet.federation.settings import (
    DEFAULT_METHOD,
    all_keys,
    check_known,
    config_model,
    federation_config,
    read_assignments,
    read_config,
    unknown_federation_key,
    values_for,
)
from promptfleet.methods import load_method
from promptfleet.methods.protocol import HasServerModel
from promptfleet.search.budget import Budget, check_parts
from promptfleet.search.conditions import active, is_active, parents_first, required, with_fixed
from promptfleet.search.effects import check_effects
from promptfleet.search.finalists import Finalists
from promptfleet.search.goals import Goals, parse_goals
from promptfleet.search.objective import MAIN, OF_SERVER, Objective, parse_objective
from promptfleet.search.pruners import Name
from promptfleet.search.samplers import GRID, check_sampler
from promptfleet.search.seats import seeded
from promptfleet.search.space import Choice, IntRange, Parameter, parse_parameter
from promptfleet.yaml_files import as_yaml

logger = logging.getLogger(__name__)

_OF_DATA = ("dataset", "data", "partition", "clients", "participation")
_KEPT = (
    "method",
    "dataset",
    "backbone",
    "features.",
    "rounds",
    "partition.file",
    "partition.fingerprint",
    "evaluation.",
    *(f"{key}{end}" for key in KEYS_OF_TEXTS for end in ("", "_file")),
)
MOST_TRIED = 200  # values of a searched key to check for a hint on a wrong one
MOST_FEDERATIONS = 10_000  # checked before a sweep starts
FIXED = (*_KEPT, *(f"{section}." for section in EXECUTION_SECTIONS))


class SweepSettings(Section):
    """Budget of a sweep: all keys of a search file but ``federation`` and ``space``."""

    sampler: str = Field(
        "tpe",
        description="what proposes trials: `tpe`, `gp`, `cmaes`, `random`, `qmc`, `nsga2`, `grid` (each combination "
        "once, without early stopping), or `module:Class` of your own",
    )
    sampler_options: Mapping[str, Any] | None = Field(
        None, description="options of the sampler by name, as Optuna has them, such as `{multivariate: true}`"
    )
    trials: int = Field(16, ge=1, description="number of trials; a grid runs all its points")
    budget: Budget = Field(default_factory=Budget, description="what all trials may use")
    seed: int = Field(0, ge=0, description="seed of the sampler; the federation has its own seed")
    defaults_first: bool = Field(False, description="run the federation's own values as the first trial")
    objective: str = Field(
        MAIN,
        description="what trials are judged by: `val/local`, `val/global`, `val/others`, `val/server`, or a harmonic "
        "mean per client such as `harmonic(val/local, val/global)`; never a test set",
    )
    objectives: Mapping[str, Any] | None = Field(
        None, description="quantities to maximize or minimize, the first one `val/local: max`, such as `bytes_up: min`"
    )
    constraint: Mapping[str, Any] | None = Field(
        None, description="bounds of a trial's quantities, such as `{bytes_per_round: {max: 200000}}`"
    )
    start_from: list[str] = Field(
        default_factory=list, description="earlier sweeps to learn from, by name or by the path of their `study.db`"
    )
    start_from_ignores: list[str] = Field(
        default_factory=list, description="keys of the federation that may differ in them"
    )
    enqueue: list[Mapping[str, Any]] = Field(
        default_factory=list, description="values to try first, in a section of keys per trial; other keys are drawn"
    )
    seeds_per_trial: int = Field(
        1, ge=1, description="federations of a trial, with seeds that follow each other; its objective is their mean"
    )
    finalists: Finalists = Field(default_factory=Finalists, description="trials that are run again with fresh seeds")
    startup_trials: int = Field(6, ge=0, description="random trials before the sampler learns from them")
    pruner: Name = Field(
        "asha",
        description="what stops a trial early: successive halving, the median of the others, the same with"
        " patience, or a paired test of its clients against the best trial's",
    )
    patience: int = Field(3, ge=0, description="rounds without improvement that `patient` waits for")
    grace_rounds: int = Field(2, ge=1, description="rounds per trial before it can be stopped early")
    reduction_factor: int = Field(3, ge=2, description="one of every N trials survives each rung (ASHA)")
    concurrent_trials: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        1,
        description="trials at the same time, `auto` fills the cluster; with 1 a sweep is exactly repeatable",
    )


@dataclass(frozen=True)
class SweepSpec:
    """A checked sweep. ``base`` are the federation's nested values without the searched keys."""

    settings: SweepSettings
    base: Mapping[str, Any]
    space: Mapping[str, Parameter]

    def to_dict(self) -> dict[str, Any]:
        """Return the values of a search file: ``parse_sweep`` gives the same sweep back."""
        space = {key: parameter.entry() for key, parameter in self.space.items()}
        return {**self.settings.model_dump(), "federation": dict(self.base), "space": space}

    def config(self, params: Mapping[str, Any], *, source: str = "trial") -> FederationConfig:
        """Return the federation of one trial; ``params`` by dotted key."""
        return federation_config(self.values(params), source=source)

    def values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the nested values of that federation, without those that nothing sets."""
        values = values_for(params["method"], self.base) if "method" in params else dict(self.base)
        for key, value in params.items():
            values = merge(values, nest(key, value))
        return {"method": DEFAULT_METHOD, **values}

    def extreme_configs(self, source: str = "space") -> Iterator[FederationConfig]:
        """Yield federations with every extreme value, and every pair of them: if these can run, so can all others.

        The first is ``base_config``. Raises ConfigError, naming ``source``, at the first that is not a valid
        configuration. Of a grid these are all federations.
        """
        if self.settings.sampler == GRID:
            yield from (self._extreme(point, source) for point in grid_points(self.space))
            return
        extremes = {key: self.space[key].extremes() for key in self.space}
        pairs = sum(len(extremes[one]) * len(extremes[other]) for one, other in combinations(self.space, 2))
        if pairs > MOST_FEDERATIONS:
            raise ConfigError(f"{source}: {pairs} pairs of values to check, should be at most {MOST_FEDERATIONS}")
        yield self._extreme(self._first_values(), source)
        for one, other in combinations(self.space, 2) if len(self.space) > 1 else [(next(iter(self.space)),) * 2]:
            needed = required(self.space, [one, other])
            for value, other_value in product(extremes[one], extremes[other]) if needed is not None else ():
                if value in needed.get(one, (value,)) and other_value in needed.get(other, (other_value,)):
                    above = {key: values[0] for key, values in needed.items()}
                    yield self._extreme(self._beside_firsts({**above, one: value, other: other_value}), source)

    def _extreme(self, params: Mapping[str, Any], source: str) -> FederationConfig:
        """Return the federation of these values; if it is not valid, the error gives a hint on searched keys."""
        try:
            return self.config(params, source=source)
        except ConfigError as error:
            named = [key for key in params if re.search(rf"(?<![\w.]){re.escape(key)}\b", str(error))]
            hints = [self._searched_hint(key, params) for key in named]
            raise ConfigError("; ".join([str(error), *hints])) from None

    def _searched_hint(self, key: str, params: Mapping[str, Any]) -> str:
        """Return a hint with a value for a searched key that does not fit the others."""
        parameter = self.space[key]
        fitting = [value for value in (parameter.points() or ())[:MOST_TRIED] if self._is_valid({**params, key: value})]
        if not fitting:
            return f"{key} is searched: give --set {key}=... too, or search other values"
        narrower = replace(parameter, low=fitting[0], high=fitting[-1]) if isinstance(parameter, IntRange) else None
        entry = (narrower or Choice(tuple(fitting))).entry()
        kind = next(iter(entry))
        searched = f" or search {key}: {{{kind}: {entry[kind]}}}" if len(fitting) > 1 else ""
        return f"{key} is searched: give --set {key}={fitting[-1]} too{searched}"

    def _is_valid(self, params: Mapping[str, Any]) -> bool:
        try:
            self.config(params)
        except ConfigError:
            return False
        return True

    @property
    def goals(self) -> Goals:
        """Objectives and constraints."""
        return parse_goals(
            self.settings.objectives, self.settings.constraint, main=self.settings.objective, source="search"
        )

    def methods(self) -> Sequence[str]:
        """Return every method of a trial."""
        return self.space["method"].points() if "method" in self.space else [self.base_config().method]

    def named_code(self) -> Sequence[str]:
        """Return the names of the methods and the sampler, which may be code outside promptfleet."""
        return [*self.methods(), self.settings.sampler]

    def base_config(self) -> FederationConfig:
        """Return a federation of this sweep with the first value of each searched key."""
        return self.config(self._first_values())

    def first_params(self) -> dict[str, Any] | None:
        """Return the federation's own values of the searched keys, if the first trial shall have them.

        A key whose own value is not in the space is drawn all the same.
        """
        if not self.settings.defaults_first or self.settings.sampler == GRID:
            return None
        own = flatten(self.config({}).to_dict())
        return {key: own[key] for key, parameter in self.space.items() if key in own and parameter.contains(own[key])}

    def all_configs(self) -> Iterator[FederationConfig]:
        """Yield the extreme federations, and the first one with every other seed that trials or finalists have."""
        yield from self.extreme_configs()
        yield from self._further_seeds()

    def _further_seeds(self) -> list[FederationConfig]:
        config, settings = self.base_config(), self.settings
        finals = [config.model_copy(update={"seed": seed}) for seed in settings.finalists.seeds]
        return [*seeded(config, settings.seeds_per_trial)[1:], *finals]

    def _first_values(self) -> dict[str, Any]:
        return self._beside_firsts({})

    def _beside_firsts(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``params``, and the first value of each other key that is searched together with them."""
        firsts = {key: parameter.extremes()[0] for key, parameter in self.space.items()}
        return active(self.space, {**firsts, **params})


def grid_points(space: Mapping[str, Parameter]) -> list[dict[str, Any]]:
    """Return every combination of the values of a finite space, the last key's changing fastest, each once."""
    points: list[dict[str, Any]] = [{}]
    for key, parameter in space.items():
        points = [further for point in points for further in _with_key(point, key, parameter)]
    return points


def _with_key(point: Mapping[str, Any], key: str, parameter: Parameter) -> list[dict[str, Any]]:
    """Return the point once for each value of one more key, or as it is if that key is not searched."""
    return [{**point, key: value} for value in parameter.points()] if is_active(parameter, point) else [dict(point)]


def read_sweep(
    path: str | Path,
    assignments: Sequence[str] = (),
    *,
    config: str | Path | None = None,
    trials: int | None = None,
    budget: Mapping[str, Any] | None = None,
    trust_code: bool = False,
) -> SweepSpec:
    """Read a search file. ``assignments`` (``key=value``) fix keys of the federation, searched ones too.

    ``config`` is a file with keys of the federation, as for a single one. They win over the search file's own, but not
    over what it searches. If they name a dataset, clients and partition of the search file are not used. ``trials`` and
    ``budget`` win over the file's.

    Raises:
        ConfigError: what is wrong, in which file or option, and what would be right; trust_code: see ``read_config``.
    """
    values = read_config(path, trust_code=trust_code, closed=("space",))
    if config is not None:
        keys = read_config(config, trust_code=trust_code)
        federation_config(keys, source=str(config))
        values = {**values, "federation": _around(_mapping(values, "federation", str(path)), keys, path, config)}
    spec = parse_sweep(values, assignments, trials=trials, budget=budget, source=str(path))
    check_effects(spec, source=str(path), changed=bool(assignments or config))
    return spec


def _around(own: Mapping[str, Any], keys: Mapping[str, Any], path: str | Path, config: str | Path) -> dict[str, Any]:
    """Return the federation of a search file with that of ``--config``, which wins.

    If it names a dataset, the search file's clients and their samples are not used, since they are meant for its own.
    """
    if "dataset" in keys:
        kept = {key: value for key, value in own.items() if key not in _OF_DATA}
        unused = [key for key in flatten({key: own[key] for key in own if key in _OF_DATA}) if key not in flatten(keys)]
        if unused:
            logger.info("%s names a dataset: of %s, %s are not used", config, path, ", ".join(unused))
        own = kept
    return merge(own, keys)


def kept_at(storage: StorageConfig, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a sweep's or comparison's file with the ``storage`` where it was found."""
    begun = flatten(values).get("federation.storage.path", StorageConfig().path)
    return dict(values) if begun == storage.path else merge(values, nest("federation.storage.path", storage.path))


def parse_sweep(
    values: Mapping[str, Any],
    assignments: Sequence[str] = (),
    *,
    trials: int | None = None,
    budget: Mapping[str, Any] | None = None,
    source: str,
) -> SweepSpec:
    """Check the content of a search file, see ``read_sweep``."""
    settings_values = {key: value for key, value in values.items() if key not in ("federation", "space")}
    known = [*SweepSettings.model_fields, "federation", "space"]
    for key in settings_values:
        if key not in known:
            raise _unknown_setting(key, known, source)
    settings_values = _with_trials(_with_objective(settings_values, source), source)
    settings = build(SweepSettings, settings_values, source=source)
    if trials is not None:
        settings_values = {**settings_values, "trials": trials}
        settings = build(SweepSettings, settings_values, source="--trials")
    if budget:
        check_parts(budget)
        budget = {**_mapping(settings_values, "budget", source), **budget}
        settings = build(SweepSettings, {**settings_values, "budget": budget}, source="--budget")
    federation = _mapping(values, "federation", source)
    overrides = read_assignments(assignments, _methods(_mapping(values, "space", source), federation))
    base = with_file_contents(merge(federation, overrides))
    base = _with_evaluated(base, parse_objective(settings.objective, source=source), source)
    space = _parameters(_mapping(values, "space", source), overrides, settings.sampler, source)
    if "method" in space:
        check_known(space["method"].points(), federation, source=f"{source}: federation")
        check_known(space["method"].points(), overrides, source="--set")
    elif federation:
        federation_config(federation, source=f"{source}: federation")
    _check_searched(_mapping(values, "space", source), space, base, source)
    if settings.sampler == GRID:
        settings = _grid_settings(settings, space, asked=trials or settings_values.get("trials"), source=source)
    _check_budget(settings, base, source)
    options = settings.sampler_options or {}
    settings = _without_pruner(settings, asked="pruner" in settings_values, source=source)
    spec = SweepSpec(settings, base, space)
    goals = parse_goals(settings.objectives, settings.constraint, main=settings.objective, source=source)
    check_sampler(settings.sampler, options, space, goals, startup_trials=settings.startup_trials, source=source)
    _check_start(spec, source)
    for _ in spec.extreme_configs(f"{source} with --set" if overrides else f"{source}: space"):
        pass
    _check_seeds(spec, source)
    _check_server(spec, source)
    return spec


def _with_objective(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Write the objective as its name; a list of validation sets is their harmonic mean. Raises ConfigError."""
    objective = values.get("objective", MAIN)
    if isinstance(objective, list):
        objective = f"harmonic({', '.join(map(str, objective))})"
    return {**values, "objective": parse_objective(str(objective), source=source).name}


def _with_evaluated(base: Mapping[str, Any], objective: Objective, source: str) -> Mapping[str, Any]:
    """Have the sets of the objective evaluated in each evaluated round. Raises ConfigError: they are set otherwise."""
    for name in objective.evaluated_sets:
        key = f"evaluation.sets.{name}"
        if flatten(base).get(key, "each") != "each":
            raise ConfigError(f"{source}: objective: {objective.name} needs {key}=each; leave {key} out")
        base = merge(base, nest(key, "each"))
    return base


def _check_server(spec: SweepSpec, source: str) -> None:
    """Raise ConfigError if the objective needs the model of a server that has none."""
    for method in spec.methods() if OF_SERVER in spec.settings.objective else ():
        if not isinstance(load_method(method), HasServerModel):
            raise ConfigError(f"{source}: objective: {OF_SERVER}: the server of {method} has no model")


def _with_trials(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return the settings with ``budget.trials`` as ``trials``, which means the same."""
    budget = _mapping(values, "budget", source)
    trials = budget.get("trials")
    if trials is None:
        return dict(values)
    if values.get("trials", trials) != trials:
        raise ConfigError(f"{source}: trials: got {values['trials']}, but budget.trials is {trials}; keep one of them")
    build(Budget, budget, source=f"{source}: budget")
    return {**values, "trials": trials, "budget": {**budget, "trials": None}}


def _check_budget(settings: SweepSettings, federation: Mapping[str, Any], source: str) -> None:
    """Raise ConfigError if the budget is used up before a trial has ended."""
    rounds = flatten(federation).get("rounds", FederationConfig.model_fields["rounds"].default)
    limit, seeds = settings.budget.rounds, settings.seeds_per_trial
    if limit is not None and isinstance(rounds, int) and limit < rounds * seeds:
        of_seeds = f" ({rounds} for each of {seeds} seeds)" if seeds > 1 else ""
        raise ConfigError(
            f"{source}: budget.rounds: {limit} allow no trial, which takes {rounds * seeds} rounds{of_seeds}"
        )


def _without_pruner(settings: SweepSettings, *, asked: bool, source: str) -> SweepSettings:
    """Return the settings without early stopping where there are several objectives."""
    if len(settings.objectives or {}) < 2:
        return settings
    if asked and settings.pruner != "none":
        raise ConfigError(
            f"{source}: pruner: got {settings.pruner}, but Optuna stops no trial early with several objectives; leave "
            f"it out"
        )
    if settings.finalists.trials:
        raise ConfigError(f"{source}: finalists: are the best of one objective, and there are several")
    return settings.model_copy(update={"pruner": "none"})


def _check_start(spec: SweepSpec, source: str) -> None:
    """Raise ConfigError if what is to be tried first is not in the space, or a grid has no use for it."""
    settings = spec.settings
    for key in ("enqueue", "start_from"):
        if getattr(settings, key) and settings.sampler == GRID:
            raise ConfigError(f"{source}: {key}: a grid runs each of its points and learns nothing; leave it out")
    for index, point in enumerate(settings.enqueue):
        for key, value in point.items():
            if key not in spec.space:
                hint = did_you_mean(key, spec.space) or f"there are: {', '.join(spec.space)}"
                raise ConfigError(f"{source}: enqueue[{index}]: {key} is not searched; {hint}")
            if not spec.space[key].contains(value):
                entry = as_yaml(spec.space[key].entry())
                raise ConfigError(f"{source}: enqueue[{index}]: {key}={value!r} is outside of {entry}")
    known = all_keys()
    for key in settings.start_from_ignores:
        if key not in known:
            raise unknown_key(key, known, source=f"{source}: start_from_ignores")


def _check_seeds(spec: SweepSpec, source: str) -> None:
    """Raise ConfigError if seeds of trials, of finalists and of the space do not go together, or pairs do not match."""
    settings, finalists = spec.settings, spec.settings.finalists
    if "seed" in spec.space and (settings.seeds_per_trial > 1 or finalists.trials):
        key = "finalists" if finalists.trials else "seeds_per_trial"
        raise ConfigError(f"{source}: {key}: sets seeds itself, so 'seed' cannot be searched")
    if finalists.trials and len(set(finalists.seeds)) < 2:
        raise ConfigError(f"{source}: finalists.seeds: got {finalists.seeds}, should be at least two different seeds")
    if finalists.seeds and not finalists.trials:
        raise ConfigError(f"{source}: finalists.trials: is missing, should be the number of finalists")
    first = spec.base_config().seed
    used = sorted(set(finalists.seeds) & set(range(first, first + settings.seeds_per_trial)))
    if used:
        raise ConfigError(f"{source}: finalists.seeds: the trials have seed {used[0]} already; give fresh ones")
    others = [key for key in spec.space if key.startswith(("clients", "partition.", "seed", "dataset"))]
    if settings.pruner == "wilcoxon" and others:
        raise ConfigError(f"{source}: pruner: wilcoxon compares the same clients, so {others[0]} cannot be searched")
    if settings.pruner == "wilcoxon" and settings.objective == OF_SERVER:
        raise ConfigError(
            f"{source}: pruner: wilcoxon compares clients, but {OF_SERVER} is one number of the server; take median"
        )


def _unknown_setting(key: str, known: Sequence[str], source: str) -> ConfigError:
    if key == "methods":
        return ConfigError(f"{source}: is a file for comparisons ('methods'): give it to compare.py by --tune")
    if key.split(".")[0] in {known.split(".")[0] for known in all_keys()} - set(known):
        return ConfigError(f"{source}: unknown key {key!r}; it is a key of the federation: put it under 'federation'")
    return unknown_key(key, known, source=source)


def _methods(space: Mapping[str, Any], federation: Mapping[str, Any]) -> list[Any]:
    """Return the methods whose keys ``--set`` may have, by a search file."""
    searched = space.get("method")
    choice = searched.get("choice") if isinstance(searched, Mapping) else None
    return choice if isinstance(choice, list) else [federation.get("method", DEFAULT_METHOD)]


def _parameters(
    entries: Mapping[str, Any], overrides: Mapping[str, Any], sampler: str, source: str
) -> dict[str, Parameter]:
    """Return the searched part: the space without the keys that ``--set`` fixes."""
    space = {}
    for key, entry in entries.items():
        if str(key).startswith(FIXED) and not (key == "method" and sampler == GRID):
            raise ConfigError(f"{source}: space.{key}: a sweep keeps {key} fixed; set it under 'federation'")
        parameter = parse_parameter(key, entry, source=source)
        if key == "method" and not (
            isinstance(parameter, Choice) and all(isinstance(name, str) for name in parameter.values)
        ):
            raise ConfigError(f"{source}: space.method: got {entry!r}, should be {{choice: [name, ...]}}")
        space[key] = parameter
    return with_fixed(parents_first(space, source=source), _fixed(space, overrides))


def _fixed(space: Mapping[str, Parameter], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the searched keys that ``--set`` has a value for."""
    flat = flatten(overrides)
    return {key: flat.get(key) for key in space if _is_set(overrides, key)}


def _check_searched(
    entries: Mapping[str, Any], space: Mapping[str, Parameter], base: Mapping[str, Any], source: str
) -> None:
    """Raise ConfigError if nothing is searched, or a key that a method does not have."""
    methods = [{**base, "method": name} for name in space["method"].points()] if "method" in space else [base]
    known = {values.get("method", DEFAULT_METHOD): set(dotted_keys(config_model(values))) for values in methods}
    for key in entries:
        wanted = (required(space, [key]) or {}).get("method") if key in space else None
        names = list(wanted or known)
        if not all(key in known[name] for name in names):
            raise unknown_federation_key(str(key), names, source=f"{source}: space")
    if not space:
        raise ConfigError(f"{source}: nothing to search: 'space' needs at least one key that --set does not fix")


def _grid_settings(
    settings: SweepSettings, space: Mapping[str, Parameter], *, asked: int | None, source: str
) -> SweepSettings:
    """Return the settings with one trial per point of the grid."""
    for key, parameter in space.items():
        if parameter.points() is None:
            raise ConfigError(f"{source}: space.{key}: a grid needs {{choice: [a, b, ...]}} or {{int: [low, high]}}")
    count = math.prod(len(parameter.points()) for parameter in space.values())
    count = len(grid_points(space)) if count <= MOST_FEDERATIONS else count
    if count > MOST_FEDERATIONS:
        raise ConfigError(f"{source}: space: a grid of {count} points, should be at most {MOST_FEDERATIONS}")
    if asked not in (None, count):
        raise ConfigError(f"{source}: trials: got {asked}, but a grid runs each of its {count} points; leave it out")
    return settings.model_copy(update={"trials": count})


def _mapping(values: Mapping[str, Any], name: str, source: str) -> Mapping[str, Any]:
    section = values.get(name)
    if section is None:
        return {}
    if not isinstance(section, Mapping):
        raise ConfigError(f"{source}: {name}: got {section!r}, should be a section of keys")
    return section


def _is_set(values: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(values, Mapping) or part not in values:
            return False
        values = values[part]
    return True
