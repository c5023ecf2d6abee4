"""Checks of a comparison before it starts, and their messages."""

import pytest
import yaml

from promptfleet.comparison.reading import load_comparison, parse_methods, parse_seeds, read_comparison
from promptfleet.config import FederationConfig, StorageConfig
from promptfleet.errors import ConfigError
from promptfleet.methods import METHODS
from promptfleet.search.space import FloatRange

METHODS_COMPARED = ("pfedmoap", "promptfl")


@pytest.fixture
def write(tmp_path):
    def write(name, values):
        path = tmp_path / name
        path.write_text(yaml.safe_dump(values))
        return path

    return write


def read(path=None, assignments=(), *, methods=METHODS_COMPARED, seeds=(0, 1), **options):
    return read_comparison(path, assignments, methods=methods, seeds=seeds, **options)


def test_a_key_that_only_some_methods_know_is_for_those():
    spec = read(assignments=["experts=5", "rounds=3"])
    assert [(config.method, config.seed, config.rounds) for config in spec.configs()] == [
        ("pfedmoap", 0, 3),
        ("promptfl", 0, 3),
        ("pfedmoap", 1, 3),
        ("promptfl", 1, 3),
    ]
    assert spec.config("pfedmoap", 0).experts == 5


def test_a_preset_for_one_method_is_one_for_all(root):
    spec = read(root / "configs" / "paper" / "cifar10.yaml", ["dataset=digits"])
    assert [(config.method, config.clients) for config in spec.configs()][:2] == [("pfedmoap", 100), ("promptfl", 100)]
    assert spec.config("pfedmoap", 0).experts == 9


def test_the_shipped_spaces_tune_every_method_by_the_same_budget(root):
    spec = read(methods=tuple(METHODS), tune=root / "search_spaces" / "methods.yaml")
    assert set(METHODS) - set(spec.tuning) == {"zero_shot"}
    assert len({sweep.settings.trials for sweep in spec.tuning.values()}) == 1
    for method, sweep in spec.tuning.items():
        assert set(sweep.first_params()) == set(sweep.space), f"{method}: its own values are in its space"


def test_each_method_has_its_own_values_and_tuned_ones_win(write):
    file = write("config.yaml", {"prompt_lr": 0.5, "methods": {"promptfl": {"prompt_lr": 0.1}, "fedpgp": {}}})
    spec = read(file, ["methods.pfedmoap.lambda=2"])
    assert (spec.config("pfedmoap", 1).lambda_, spec.config("pfedmoap", 1).prompt_lr) == (2, 0.5)
    assert spec.config("promptfl", 1).prompt_lr == 0.1
    assert spec.config("promptfl", 1, {"prompt_lr": 0.3}).prompt_lr == 0.3


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("expert=5", "--set: unknown key 'expert'; did you mean 'experts'"),
        ("methods.promptfl.experts=5", "--set: methods.promptfl: unknown key 'experts'"),
        ("methods.promptfl.rounds=5", "all methods of a comparison have the same rounds; set it outside 'methods'"),
        ("methods.prompfl.prompt_lr=5", "unknown method 'prompfl'; did you mean 'promptfl'"),
        ("methods.promptfl=5", "--set: methods: should be"),
        ("seed=1", "--set: seed: a comparison has several; use --seeds"),
        ("method=promptfl", "--set: method: a comparison has several; use --methods"),
        ("experts=10", "experts=10 must be smaller than clients=10"),
        ("rounds=0", "method pfedmoap: rounds: got 0"),
    ],
)
def test_what_cannot_be_compared(assignment, message):
    with pytest.raises(ConfigError, match=message):
        read(assignments=[assignment])


@pytest.mark.parametrize("text", ["", " , "])
def test_no_methods_and_no_seeds(text):
    with pytest.raises(ConfigError, match="--methods: name at least one method, or all; there are: "):
        parse_methods(text)
    with pytest.raises(ConfigError, match="--seeds: name at least one seed"):
        parse_seeds(text)


def test_lists_of_methods_and_seeds():
    assert parse_methods("promptfl, pfedmoap") == ("promptfl", "pfedmoap")
    assert parse_methods("all") == tuple(METHODS)
    assert parse_methods("incfl") == ("maxfl",)
    assert parse_seeds("2,0") == (2, 0)
    for text, message in [("maxfl,incfl", "is a duplicate"), ("prompfl", "did you mean 'promptfl'")]:
        with pytest.raises(ConfigError, match=message):
            parse_methods(text)
    for text, message in [("1,1", "is a duplicate"), ("-1", "'-1' is no seed"), ("one", "'one' is no seed")]:
        with pytest.raises(ConfigError, match=message):
            parse_seeds(text)


TUNE = {
    "trials": 4,
    "federation": {"seed": 1000, "rounds": 2},
    "methods": {
        "pfedmoap": {"lambda": {"float": [0.1, 2]}, "prompt_lr": {"float": [0.01, 0.1], "log": True}},
        "promptfl": {},
    },
}


def test_tuning_searches_each_methods_own_space_on_other_clients(write):
    spec = read(assignments=["clients=5", "methods.pfedmoap.prompt_lr=0.05"], tune=write("tune.yaml", TUNE), trials=3)
    assert list(spec.tuning) == ["pfedmoap"]
    sweep = spec.tuning["pfedmoap"]
    assert list(sweep.space) == ["lambda"], "what --set gives is not searched"
    assert sweep.settings.trials == 3
    config = sweep.config({"lambda": 0.7})
    assert (config.seed, config.rounds, config.clients, config.prompt_lr) == (1000, 2, 5, 0.05)
    assert spec.config("pfedmoap", 0).rounds == 10, "only the tuning is shorter"


@pytest.mark.parametrize("method", METHODS)
def test_a_method_without_a_space_is_tuned_around_its_own_values(write, method):
    spec = read(methods=(method,), tune=write("tune.yaml", {**TUNE, "defaults_first": True, "methods": {}}))
    sweep = spec.tuning[method]
    own = spec.config(method, 0).to_dict()
    assert "prompt_lr" in sweep.space
    assert sweep.first_params() == {key: own[key] for key in sweep.space}, "its own values are in its space"
    assert set(sweep.space) - {"prompt_lr"} <= set(own) - set(FederationConfig().to_dict())
    assert len(list(sweep.extreme_configs())) > 2, "every extreme is a valid federation"


def test_the_space_of_a_method_without_one_keeps_to_what_is_set_and_to_bounds(write):
    file = write("config.yaml", {"methods": {"fedamp": {"prompt_lr": 0.5, "cloud_share": 0.2}}})
    tune = write("tune.yaml", {**TUNE, "methods": {}})
    space = read(file, ["methods.fedamp.prox=1.0"], methods=("fedamp",), tune=tune).tuning["fedamp"].space
    assert space == {"prompt_lr": FloatRange(0.05, 5.0, log=True), "cloud_share": FloatRange(0.02, 1.0, log=True)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"federation": {}}, "federation.seed: got None, should be a seed that is not compared"),
        ({"federation": {"seed": 1}}, r"federation.seed: got 1, should be a seed that is not compared \(0, 1\)"),
        ({"methods": {"pfedmoap": {}, "prompfl": {}}}, "unknown method 'prompfl'; did you mean 'promptfl'"),
        ({"methods": {**TUNE["methods"], "promptfl": {"lambda": {"int": [0, 1]}}}}, "promptfl: unknown key 'lambda'"),
        ({"methods": {**TUNE["methods"], "promptfl": {"clients": {"int": [2, 3]}}}}, "have the same clients"),
        ({"methods": None}, "methods: should be"),
        (
            {"federation": {"seed": 1000, "round": 2}},
            "tune.yaml: federation: unknown key 'round'; did you mean 'rounds'",
        ),
        ({"trial": 3}, "unknown key 'trial'; did you mean 'trials'"),
        (
            {"federation": {"seed": 9, "expert_search": "exact"}},
            "federation: unknown key 'expert_search'; it is now 'pool.search'",
        ),
    ],
)
def test_a_tuning_that_cannot_be_run(write, change, message):
    with pytest.raises(ConfigError, match=message):
        read(tune=write("tune.yaml", {**TUNE, **change}))


def test_written_out_and_read_back_it_is_the_same(write):
    spec = read(assignments=["clients=5", "methods.pfedmoap.lambda=2"], tune=write("tune.yaml", TUNE), concurrent=2)
    assert load_comparison(write("comparison.yaml", spec.to_dict()), StorageConfig()) == spec


def test_found_in_another_place_all_of_it_is_kept_there(write):
    spec = read(assignments=["clients=5"], tune=write("tune.yaml", TUNE))
    moved = load_comparison(write("comparison.yaml", spec.to_dict()), StorageConfig(path="s3://bucket/x"))
    configs = [*moved.configs(), *(sweep.base_config() for sweep in moved.tuning.values())]
    assert {config.storage.path for config in configs} == {"s3://bucket/x"}
    assert len(configs) > 2
