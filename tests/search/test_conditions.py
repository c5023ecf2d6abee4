"""Keys that are searched only beside certain values of others."""

import numpy as np
import optuna
import pytest
import yaml

from promptfleet.errors import ConfigError
from promptfleet.search.conditions import parents_first, required, with_fixed
from promptfleet.search.importances import hyperparameter_importances
from promptfleet.search.samplers import ask, distribution, make_sampler
from promptfleet.search.space import Choice, FloatRange, IntRange
from promptfleet.search.spec import SweepSettings, grid_points, parse_sweep
from promptfleet.search.study import SweepStudy

SPACE = {
    "aggregation": Choice(("mean", "trimmed_mean")),
    "trim_fraction": FloatRange(0.1, 0.3, when={"aggregation": ("trimmed_mean",)}),
    "experts": IntRange(1, 4),
}
ENTRIES = {
    "aggregation": {"choice": ["mean", "trimmed_mean"]},
    "trim_fraction": {"float": [0.1, 0.3], "when": {"aggregation": "trimmed_mean"}},
    "experts": {"int": [1, 4]},
}


def parse(entries=ENTRIES, assignments=(), **values):
    return parse_sweep({"space": entries, **values}, assignments, source="a.yaml")


def test_a_condition_is_a_value_or_a_list_and_stays_in_the_sweeps_file():
    spec = parse()
    assert spec.space == SPACE
    assert parse_sweep(yaml.safe_load(yaml.safe_dump(spec.to_dict())), source="again") == spec
    longer = {**ENTRIES["trim_fraction"], "when": {"aggregation": ["mean", "trimmed_mean"]}}
    assert parse({**ENTRIES, "trim_fraction": longer}).space["trim_fraction"].when == {
        "aggregation": ("mean", "trimmed_mean")
    }


def test_keys_come_after_those_that_their_conditions_name():
    space = {
        "c": IntRange(0, 1, when={"b": (1,)}),
        "d": IntRange(0, 1),
        "b": IntRange(0, 1, when={"a": (1,)}),
        "a": IntRange(0, 1),
    }
    assert list(parents_first(space, source="x")) == ["a", "b", "c", "d"]
    assert required(space, ["c"]) == {"b": (1,), "a": (1,)}


def test_a_grid_has_each_point_once():
    assert grid_points({**SPACE, "trim_fraction": Choice((0.1, 0.2), when={"aggregation": ("trimmed_mean",)})}) == [
        *({"aggregation": "mean", "experts": experts} for experts in (1, 2, 3, 4)),
        *(
            {"aggregation": "trimmed_mean", "trim_fraction": fraction, "experts": experts}
            for fraction in (0.1, 0.2)
            for experts in (1, 2, 3, 4)
        ),
    ]
    entries = {**ENTRIES, "trim_fraction": {"choice": [0.1, 0.2], "when": {"aggregation": ["trimmed_mean"]}}}
    assert parse(entries, sampler="grid").settings.trials == 12


def test_a_grid_over_methods_searches_a_key_beside_the_methods_that_have_it():
    entries = {
        "method": {"choice": ["promptfl", "fedprox"]},
        "mu": {"choice": [0.1, 1.0], "when": {"method": "fedprox"}},
    }
    configs = list(parse(entries, sampler="grid").extreme_configs())
    assert [(config.method, getattr(config, "mu", None)) for config in configs] == [
        ("promptfl", None),
        ("fedprox", 0.1),
        ("fedprox", 1.0),
    ]
    with pytest.raises(ConfigError, match="unknown key 'mu' with method promptfl"):
        parse({**entries, "mu": {"choice": [0.1, 1.0]}}, sampler="grid")


def test_every_pair_that_can_meet_is_checked_and_no_other():
    pairs = {(config.aggregation, config.trim_fraction) for config in parse().extreme_configs()}
    unset = parse().config({}).trim_fraction
    assert pairs == {("mean", unset), ("trimmed_mean", 0.1), ("trimmed_mean", 0.3)}
    with pytest.raises(ConfigError, match=r"trim_fraction: got 0\.7, should be less than 0.5"):
        parse({**ENTRIES, "trim_fraction": {"float": [0.1, 0.7], "when": {"aggregation": "trimmed_mean"}}})


@pytest.mark.parametrize(
    ("assignment", "keys"),
    [("aggregation=mean", ["experts"]), ("aggregation=trimmed_mean", ["trim_fraction", "experts"])],
)
def test_a_key_that_set_fixes_decides_conditions_for_good(assignment, keys):
    spec = parse(assignments=[assignment])
    assert list(spec.space) == keys
    assert all(not parameter.when for parameter in spec.space.values())


def test_what_depends_on_a_key_that_is_gone_is_gone_too():
    space = {**SPACE, "lambda": FloatRange(0.0, 1.0, when={"trim_fraction": (0.1,)})}
    assert list(with_fixed(space, {"aggregation": "mean"})) == ["experts"]
    assert list(with_fixed(space, {"trim_fraction": 0.1})) == ["aggregation", "experts", "lambda"]


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes", "random", "qmc", "nsga2"])
def test_a_trial_has_the_keys_that_its_values_call_for(sampler):
    trials = []
    for number in range(10):
        made = make_sampler(sampler, {}, SPACE, seed=1, number=number, startup_trials=4)
        asked = ask(made, trials, SPACE)
        assert ("trim_fraction" in asked.params) == (asked.params["aggregation"] == "trimmed_mean")
        trials.append(optuna.create_trial(value=number / 10, params=asked.params, distributions=asked.distributions))
    assert {trial.params["aggregation"] for trial in trials} == {"mean", "trimmed_mean"}


def test_tpe_learns_a_conditional_key_from_the_trials_that_have_it():
    trials = []
    for number in range(30):
        asked = ask(make_sampler("tpe", {}, SPACE, seed=0, number=number, startup_trials=8), trials, SPACE)
        value = 1 - abs(asked.params.get("trim_fraction", 0.9) - 0.2)
        trials.append(optuna.create_trial(value=value, params=asked.params, distributions=asked.distributions))
    late = [trial.params.get("trim_fraction") for trial in trials[-10:]]
    assert sum(fraction is not None and abs(fraction - 0.2) < 0.05 for fraction in late) >= 8


def test_a_study_with_conditions_is_resumed_as_it_was(study_folder):
    study = SweepStudy(study_folder, SPACE, SweepSettings(trials=6, startup_trials=2), 1)
    for value in (0.1, 0.3, 0.2):
        study.complete(study.next_proposal().number, value)
    again = SweepStudy(study_folder, SPACE, SweepSettings(trials=6, startup_trials=2), 1)
    assert [trial.params for trial in again.trials()] == [trial.params for trial in study.trials()]
    assert {len(trial.params) for trial in again.trials()} == {2, 3}
    assert again.next_proposal().number == 3


def test_importances_count_a_missing_key_as_a_value():
    rng = np.random.default_rng(0)
    trials = []
    for _ in range(60):
        params = {"aggregation": str(rng.choice(["mean", "trimmed_mean"])), "experts": int(rng.integers(1, 5))}
        if params["aggregation"] == "trimmed_mean":
            params["trim_fraction"] = float(rng.uniform(0.1, 0.3))
        spreads = {key: distribution(SPACE[key]) for key in params}
        trials.append(optuna.create_trial(value=params.get("trim_fraction", 0.0), params=params, distributions=spreads))
    shares = hyperparameter_importances(trials, SPACE, seed=0).shares
    assert shares["trim_fraction"] > 0.6 > shares["aggregation"] > shares["experts"]
    assert sum(shares.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"experts": {"int": [1, 4], "when": {"agregation": "mean"}}},
            "a.yaml: space.experts.when: agregation is not searched; did you mean 'aggregation'?",
        ),
        ({"experts": {"int": [1, 4], "when": {"lambda": 1}}}, "lambda is not searched; there are: aggregation, trim"),
        (
            {"experts": {"int": [1, 4], "when": {"aggregation": "meen"}}},
            "space.experts.when: aggregation is never 'meen'; did you mean 'mean'?",
        ),
        ({"experts": {"int": [1, 4], "when": {"aggregation": 3}}}, "is never 3; there are: mean, trimmed_mean"),
        ({"lambda": {"float": [0.1, 1], "when": {"experts": 5}}}, "space.lambda.when: experts is never 5"),
        ({"experts": {"int": [1, 4], "when": {"experts": 2}}}, "conditions in a circle: experts -> experts"),
        (
            {
                "experts": {"int": [1, 4], "when": {"prompt_length": 4}},
                "prompt_length": {"int": [4, 8], "when": {"experts": 2}},
            },
            "conditions in a circle: experts -> prompt_length -> experts",
        ),
        (
            {"experts": {"int": [1, 4], "when": {"aggregation": "mean", "trim_fraction": 0.1}}},
            "space.experts.when: is never true: its conditions exclude each other",
        ),
        ({"experts": {"int": [1, 4], "when": "mean"}}, "experts.when: got 'mean', should be {key: value}"),
        ({"experts": {"int": [1, 4], "when": {}}}, "experts.when: got {}, should be {key: value}"),
        ({"experts": {"int": [1, 4], "when": {"aggregation": []}}}, "when.aggregation: got [], should be a value of"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(changes, message):
    with pytest.raises(ConfigError) as caught:
        parse({**ENTRIES, **changes})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
