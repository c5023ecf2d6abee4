"""Samplers by name: each is a function of the study on disk and the seed, and its options are checked."""

import shutil
from functools import cache

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from promptfleet.errors import ConfigError
from promptfleet.search import samplers
from promptfleet.search.samplers import ask, distribution, make_sampler
from promptfleet.search.space import Choice, FloatRange, IntRange
from promptfleet.search.spec import SweepSettings, parse_sweep, read_sweep
from promptfleet.search.study import SweepStudy
from tests.search.made_up_study import run_study

SPACE = {"experts": IntRange(1, 9), "tau": FloatRange(0.01, 1.0, log=True), "length": Choice((4, 8, 16))}
ROUNDS = 2
slow = pytest.mark.slow
OPTIONS = {"nsga2": {"population_size": 4}, "cmaes": {"popsize": 3}}
SEARCH = {"space": {"experts": {"int": [1, 9]}, "prompt_lr": {"float": [0.001, 0.1], "log": True}}}


class Halves(optuna.samplers.RandomSampler):
    """A sampler of one's own: the second half of each range."""

    def __init__(self, seed, sharp=False):
        super().__init__(seed)
        self.sharp = sharp

    def sample_independent(self, study, trial, name, spread):
        value = super().sample_independent(study, trial, name, spread)
        while not isinstance(spread, optuna.distributions.CategoricalDistribution) and value < spread.high / 2:
            value = super().sample_independent(study, trial, name, spread)
        return value


def objective(params, round_index):
    return (params["experts"] / 10 - abs(params["tau"] - 0.1)) * round_index / ROUNDS


def run_search(folder, empty, sampler, stop_after=None):
    """Run trials as the driver does; ``stop_after`` rounds in all the power goes out. Returns the rows on disk."""
    if not folder.exists():
        shutil.copytree(empty, folder)
    settings = SweepSettings(
        sampler=sampler,
        sampler_options=OPTIONS.get(sampler),
        trials=8,
        startup_trials=3,
        grace_rounds=1 if sampler == "tpe" else ROUNDS,  # the others learn from complete trials alone
    )
    study = SweepStudy(folder, SPACE, settings, ROUNDS)
    if not run_study(study, ROUNDS, objective, stop_after):
        return None
    return [(t.number, t.state, t.params, t.value, t.intermediate_values, t.system_attrs) for t in study.trials()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, empty):
    """``undisturbed(sampler)``: the rows of a whole search; tests only read them."""

    @cache
    def rows(sampler):
        return run_search(tmp_path_factory.mktemp("undisturbed") / "study", empty, sampler)

    return rows


@pytest.mark.parametrize(
    "sampler",
    [
        "tpe",
        "nsga2",
        *(pytest.param(name, marks=slow) for name in ("random", "qmc", "cmaes", "gp", f"{__name__}:Halves")),
    ],
)
def test_killed_and_resumed_it_is_the_undisturbed_study_row_by_row(tmp_path, empty, undisturbed, sampler, monkeypatch):
    monkeypatch.setattr(samplers, "imported", lambda name, kind: Halves)
    undisturbed = undisturbed(sampler)
    assert (TrialState.PRUNED in {row[1] for row in undisturbed}) == (sampler == "tpe")
    run_search(tmp_path / "killed", empty, sampler, stop_after=9)
    assert run_search(tmp_path / "killed", empty, sampler) == undisturbed


def complete(params, value, system_attrs=None):
    spreads = {key: distribution(parameter) for key, parameter in SPACE.items()}
    return optuna.create_trial(value=value, params=params, distributions=spreads, system_attrs=system_attrs)


def proposals(sampler, count=12, seed=0, startup_trials=3, space=SPACE, options=None):
    """Return the proposals if each trial gives ``objective`` after its last round."""
    trials = []
    for number in range(count):
        made = make_sampler(sampler, options or {}, space, seed=seed, number=number, startup_trials=startup_trials)
        asked = ask(made, trials, space)
        trials.append(complete(asked.params, objective(asked.params, ROUNDS), asked.system_attrs))
    return [trial.params for trial in trials]


def test_tpe_proposes_what_optuna_would_by_its_own_ask():
    trials = []
    for number in range(12):
        seed = int(np.random.SeedSequence([5, number]).generate_state(1)[0])
        draft = optuna.create_study(
            direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=3)
        )
        draft.add_trials(trials)
        params = draft.ask({key: distribution(parameter) for key, parameter in SPACE.items()}).params
        trials.append(complete(params, objective(params, ROUNDS)))
    assert proposals("tpe", seed=5) == [trial.params for trial in trials]


def test_a_study_keeps_only_what_a_sampler_needs(undisturbed):
    assert all(row[-1] == {} for row in undisturbed("tpe"))
    assert any("cma:optimizer:0" in row[-1] for row in undisturbed("cmaes"))


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "nsga2", "cmaes"])
def test_the_seed_decides_what_is_proposed(sampler):
    assert proposals(sampler) == proposals(sampler) != proposals(sampler, seed=1)


def test_samplers_differ_once_they_learn_and_not_before():
    random, tpe = proposals("random"), proposals("tpe")
    assert [tpe[number] == random[number] for number in range(12)] == [True] * 3 + [False] * 9


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_startup_trials_are_those_before_it_learns(sampler):
    late, early = proposals(sampler, startup_trials=9), proposals(sampler, startup_trials=3)
    assert late[:3] == early[:3]
    assert late[3] != early[3]


@pytest.mark.parametrize(
    ("sampler", "options"),
    [
        ("tpe", {"multivariate": False}),
        ("tpe", {"n_ei_candidates": 2}),
        ("cmaes", {"with_margin": True}),
        ("nsga2", {"population_size": 2}),
        ("qmc", {"qmc_type": "halton"}),
    ],
)
def test_an_option_changes_what_is_proposed(sampler, options):
    assert proposals(sampler, options=options) != proposals(sampler)


def test_a_quasi_random_sequence_fills_the_space_more_evenly_than_chance():
    line = {"tau": FloatRange(0.0, 1.0)}
    points = [
        ask(
            make_sampler("qmc", {}, line, seed=0, number=number, startup_trials=0),
            [optuna.create_trial(value=0.0, params={"tau": 0.5}, distributions={"tau": distribution(line["tau"])})]
            * number,
            line,
        ).params["tau"]
        for number in range(16)
    ]
    assert sorted(int(point * 16) for point in points) == list(range(16)), "one in each sixteenth"


def test_options_in_a_search_file_reach_the_sampler_and_stay_in_its_file():
    spec = parse_sweep({**SEARCH, "sampler": "tpe", "sampler_options": {"multivariate": False}}, source="a.yaml")
    assert spec.settings.sampler_options == {"multivariate": False}
    assert parse_sweep(spec.to_dict(), source="again") == spec


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sampler": "tpee"}, "a.yaml: sampler: unknown sampler 'tpee'; did you mean 'tpe'?"),
        ({"sampler": "best"}, "there are: tpe, gp, cmaes, random, qmc, nsga2, grid, and module:Class"),
        ({"sampler": "a:B"}, "sampler 'a:B' cannot be imported: No module named 'a'"),
        ({"sampler": "collections:OrderedDict"}, "is not a subclass of optuna.samplers.BaseSampler"),
        ({"sampler_options": {"n_ei_candidate": 3}}, "option 'n_ei_candidate' of sampler tpe; did you mean 'n_ei_cand"),
        ({"sampler": "random", "sampler_options": {"popsize": 3}}, "'popsize' of sampler random; it has none"),
        ({"sampler_options": {"seed": 3}}, "sampler_options: seed is the key 'seed' of a search file"),
        ({"sampler_options": {"n_startup_trials": 3}}, "n_startup_trials is the key 'startup_trials' of a search"),
        ({"sampler_options": {"n_ei_candidates": "many"}}, "n_ei_candidates: got 'many', should be int"),
        ({"sampler_options": {"n_ei_candidates": 0}}, "sampler_options: sampler tpe cannot use them ("),
        ({"sampler_options": {"multivariate": 1}}, "multivariate: got 1, should be bool or null"),
        (
            {"sampler_options": {"group": True, "multivariate": False}},
            "sampler tpe cannot use them (``group`` option can only be enabled",
        ),
        ({"sampler": "qmc", "sampler_options": {"qmc_type": "x"}}, "sampler qmc cannot use them (The `qmc_type='x'`"),
        ({"sampler_options": 3}, "sampler_options: got 3, should be "),
        ({"sampler": "grid", "sampler_options": {"a": 1}}, "sampler_options: sampler grid has none"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(values, message):
    space = {"experts": {"int": [1, 3]}} if values.get("sampler") == "grid" else SEARCH["space"]
    with pytest.raises(ConfigError) as caught:
        parse_sweep({"space": space, **values}, source="a.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_its_package_cmaes_is_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(samplers, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"^a\.yaml: sampler: cmaes needs the package cmaes, which is not installed$"):
        parse_sweep({**SEARCH, "sampler": "cmaes"}, source="a.yaml")


@pytest.fixture
def own_sampler(tmp_path, monkeypatch):
    """A search file that names a sampler in a module next to it, which leaves a mark when it is imported."""
    (tmp_path / "own_sampler.py").write_text(
        f"from pathlib import Path\nPath({str(tmp_path / 'mark')!r}).touch()\n"
        "import optuna\nclass Mine(optuna.samplers.RandomSampler):\n"
        "    def __init__(self, seed, sharp=False):\n        super().__init__(seed)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "a.yaml"
    file.write_text("{space: {experts: {int: [1, 3]}}, sampler: own_sampler:Mine, sampler_options: {sharp: true}}")
    return file


def test_a_sampler_of_ones_own_is_code_that_is_run_and_needs_trust(own_sampler):
    with pytest.raises(
        ConfigError, match=r"a.yaml: sampler 'own_sampler:Mine' is code outside promptfleet.*--trust-co"
    ):
        read_sweep(own_sampler)
    assert not (own_sampler.parent / "mark").exists()
    spec = read_sweep(own_sampler, trust_code=True)
    assert spec.named_code() == ["pfedmoap", "own_sampler:Mine"]
    assert (own_sampler.parent / "mark").exists()
    own_sampler.write_text(own_sampler.read_text().replace("sharp", "shrp"))
    with pytest.raises(ConfigError, match="unknown option 'shrp' of sampler own_sampler:Mine; did you mean 'sharp'"):
        read_sweep(own_sampler, trust_code=True)
