"""A search file is checked before anything starts, and says what is wrong where."""

import re

import pytest
import yaml

from promptfleet.data.partition_file import save_partition
from promptfleet.errors import ConfigError
from promptfleet.federation.conditions.adversaries import adversaries
from promptfleet.methods.parts.averaging import trimmed
from promptfleet.search.space import Choice, FloatRange, IntRange
from promptfleet.search.spec import grid_points, parse_sweep, read_sweep
from tests.data.partitions import made_up_labels, made_up_samples, partition

GOOD = {"space": {"experts": {"int": [1, 9]}, "prompt_lr": {"float": [0.001, 0.1], "log": True}}}


def parse(values, assignments=(), **options):
    return parse_sweep(values, assignments, source="gating.yaml", **options)


def test_the_shipped_space_searches_what_it_promises(root):
    spec = read_sweep(root / "search_spaces" / "gating.yaml")
    assert list(spec.space) == ["experts", "gating_temperature", "prompt_length"]
    assert spec.settings.objective == "harmonic(val/local, val/global)"
    assert spec.space["experts"] == IntRange(1, 9)
    assert spec.space["gating_temperature"].log
    assert spec.settings.trials >= 16
    assert spec.base_config().clients == 10


def test_the_careful_space_has_seeds_finalists_and_a_condition(root):
    spec = read_sweep(root / "search_spaces" / "careful.yaml")
    assert spec.space["gating_temperature"].when == {"gate": ("attention",)}
    assert (spec.settings.seeds_per_trial, spec.settings.finalists.trials) == (3, 10)
    assert {config.gate for config in spec.extreme_configs()} == {"attention", "linear"}


def test_a_trial_is_the_base_with_its_values():
    spec = parse({**GOOD, "federation": {"rounds": 4, "partition": {"alpha": 1.0}}})
    config = spec.config({"experts": 7, "prompt_lr": 0.05})
    assert (config.experts, config.prompt_lr, config.rounds, config.partition.alpha) == (7, 0.05, 4, 1.0)


def test_set_fixes_a_searched_key_and_overrides_the_file():
    spec = parse({**GOOD, "federation": {"rounds": 4}}, ["experts=2", "rounds=3"], trials=5)
    assert list(spec.space) == ["prompt_lr"]
    assert (spec.base_config().experts, spec.base_config().rounds, spec.settings.trials) == (2, 3, 5)


@pytest.mark.parametrize(
    ("assignments", "hint"),
    [
        (["clients=6"], "; experts is searched: give --set experts=5 too or search experts: {int: [1, 5]}"),
        (["clients=2"], "; experts is searched: give --set experts=1 too"),
        (["clients=1"], "; experts is searched: give --set experts=... too, or search other values"),
    ],
)
def test_set_that_does_not_go_with_what_is_searched_gets_the_keys_to_set_as_well(root, assignments, hint):
    with pytest.raises(ConfigError) as caught:
        read_sweep(root / "search_spaces" / "gating.yaml", assignments)
    assert str(caught.value).endswith(hint)
    if found := re.search(r"--set (experts=\d)", hint):
        assert read_sweep(root / "search_spaces" / "gating.yaml", [*assignments, found[1]]).base_config().experts


def test_a_choice_that_does_not_fit_is_narrowed_to_what_does():
    with pytest.raises(ConfigError, match=r"give --set gate_heads=4 too or search gate_heads: {choice: \[1, 2, 4\]}$"):
        parse({"space": {"gate_heads": {"choice": [1, 2, 3, 4]}, "prompt_lr": {"float": [0.1, 1]}}}, ["gate_width=20"])


def test_dotted_keys_and_null_in_a_search_file(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text(
        "federation.clients: 5\nfederation: {runtime.backend: local}\n"
        "space: {partition.shots: {choice: [null, 4]}}\nspace.faults.deadline: {choice: [2.0, null]}\n"
    )
    spec = read_sweep(path)
    assert spec.base_config().clients == 5
    assert spec.base_config().runtime.backend == "local"
    assert list(spec.space) == ["partition.shots", "faults.deadline"]
    assert spec.config({"partition.shots": None, "faults.deadline": None}).partition.shots is None
    assert parse(yaml.safe_load(yaml.safe_dump(spec.to_dict()))) == spec


@pytest.mark.parametrize("key", ["clients", "partition", "experts"])
def test_a_key_of_the_federation_on_the_top_level_is_sent_where_it_belongs(key):
    with pytest.raises(
        ConfigError, match=rf"unknown key '{key}'; it is a key of the federation: put it under 'federat"
    ):
        parse({**GOOD, key: 5})


def test_written_out_and_read_back_it_is_the_same():
    space = {**GOOD["space"], "prompt_length": {"choice": [4, 8]}, "partition.alpha": {"float": [0.1, 1]}}
    spec = parse({"space": space, "trials": 3, "federation": {"clients": 12}})
    assert parse(yaml.safe_load(yaml.safe_dump(spec.to_dict()))) == spec


def test_nested_keys_can_be_searched():
    spec = parse({"space": {"partition.alpha": {"float": [0.1, 1.0]}}})
    assert spec.config({"partition.alpha": 0.7}).partition.alpha == 0.7


@pytest.mark.parametrize(
    ("entry", "parameter"),
    [
        ({"int": [1, 4]}, IntRange(1, 4)),
        ({"int": [2, 8], "step": 2}, IntRange(2, 8, step=2)),
        ({"float": [0, 1]}, FloatRange(0.0, 1.0)),
        ({"choice": [1, 2, 3]}, Choice((1, 2, 3))),
    ],
)
def test_forms(entry, parameter):
    key = "momentum" if "float" in entry else "local_epochs"
    if key == "momentum":
        entry = {"float": [0, 0.9]}
        parameter = FloatRange(0.0, 0.9)
    assert parse({"space": {key: entry}}).space[key] == parameter


def test_a_partition_file_is_read_once_and_found_from_anywhere(tmp_path, monkeypatch):
    samples = made_up_samples(made_up_labels(2, 30))
    made = partition(samples, 10, kind="iid")
    save_partition(tmp_path / "p.json", made, samples, dataset="made-up", made_with={})
    monkeypatch.chdir(tmp_path)
    spec = parse({**GOOD, "federation": {"partition": {"file": "p.json"}}})
    (tmp_path / "p.json").unlink()
    monkeypatch.chdir("/")
    trial = parse(spec.to_dict()).config({"experts": 2, "prompt_lr": 0.05}).partition
    assert (trial.file, trial.fingerprint) == (str(tmp_path / "p.json"), made.fingerprint())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "gating.yaml: nothing to search"),
        ({"space": {}}, "gating.yaml: nothing to search"),
        ({"space": 3}, "gating.yaml: space: got 3, should be a section of keys"),
        ({**GOOD, "trails": 3}, "gating.yaml: unknown key 'trails'; did you mean 'trials'?"),
        ({"trials": 3, "methods": {"coop": {}}}, "gating.yaml: is a file for comparisons ('methods'): give it to"),
        ({**GOOD, "trials": 0}, "gating.yaml: trials: got 0, should be greater than or equal to 1"),
        ({**GOOD, "trials": "ten"}, "gating.yaml: trials: got 'ten', should be a valid integer"),
        ({**GOOD, "federation": {"round": 3}}, "federation: unknown key 'round'; did you mean 'rounds'?"),
        ({"space": {"expert": {"int": [1, 3]}}}, "gating.yaml: space: unknown key 'expert'; did you mean 'experts'?"),
        ({"space": {"partition": {"int": [1, 3]}}}, "space: unknown key 'partition'"),
        (
            {"space": {"expert_filter": {"float": [1, 9]}}},
            "space: unknown key 'expert_filter'; it is now 'pool.outlier_t",
        ),
        (
            {**GOOD, "federation": {"pool_storage": "disk"}},
            "federation: unknown key 'pool_storage'; it is now 'pool.stor",
        ),
        ({"space": {"rounds": {"int": [1, 3]}}}, "space.rounds: a sweep keeps rounds fixed; set it under 'federation'"),
        ({"space": {"runtime.backend": {"choice": ["ray"]}}}, "a sweep keeps runtime.backend fixed"),
        ({"space": {"partition.file": {"choice": ["a.json"]}}}, "a sweep keeps partition.file fixed"),
        ({"space": {"experts": [1, 2]}}, "space.experts: got [1, 2], should be {int: [low, high]}"),
        ({"space": {"experts": {"int": [1, 2], "float": [1, 2]}}}, "should be {int: [low, high]}"),
        ({"space": {"experts": {"int": [1, 2], "lgo": True}}}, "space.experts: unknown key 'lgo'"),
        ({"space": {"experts": {"int": [3, 1]}}}, "space.experts.int: low 3 must be below high 1"),
        ({"space": {"experts": {"int": [1, 2.5]}}}, "space.experts.int: got [1, 2.5], should be two ints"),
        ({"space": {"prompt_lr": {"float": [0, 1], "log": True}}}, "a log scale needs low above 0, got 0"),
        (
            {"space": {"prompt_lr": {"float": [0.1, 1], "log": 1}}},
            "prompt_lr.log: got 1, should be true or false",
        ),
        ({"space": {"prompt_length": {"choice": []}}}, "space.prompt_length.choice: got []"),
        ({"space": {"prompt_length": {"choice": [4, 4]}}}, "a duplicate value in [4, 4]"),
        ({"space": {"lambda": {"choice": [1, 0.5, 1.0]}}}, "a duplicate value in [1, 0.5, 1.0]"),
        ({"space": {"experts": {"choice": [1, True]}}}, "a duplicate value in [1, True]"),
        (
            {"space": {"prompt_length": {"choice": [4, "8"]}}},
            "prompt_length: got '8', should be a valid integer",
        ),
        ({"space": {"prompt_lr": {"float": [-1, 1]}}}, "space: prompt_lr: got -1.0, should be greater than 0"),
        ({"space": {"experts": {"int": [1, 10]}}}, "experts=10 must be smaller than clients=10"),
        (
            {"space": {"clients": {"int": [4, 12]}, "experts": {"int": [1, 6]}}},
            "experts=6 must be smaller than clients=4",
        ),
        ({"space": {"gate_heads": {"choice": [8, 7]}}}, "gate_heads=7 must divide gate_width=64"),
    ],
)
def test_what_is_wrong_is_said(values, message):
    with pytest.raises(ConfigError) as error:
        parse(values)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_fixing_everything_leaves_nothing_to_search():
    with pytest.raises(ConfigError, match="nothing to search"):
        parse(GOOD, ["experts=2", "prompt_lr=0.1"])


def test_trials_option_is_named_in_its_error():
    with pytest.raises(ConfigError, match=r"^--trials: trials: got 0, should be greater than or equal to 1"):
        parse(GOOD, trials=0)


GRID = {"sampler": "grid", "space": {"lambda": {"choice": [0.5, 0.0]}, "seed": {"int": [0, 2]}}}


def test_a_grid_has_every_combination_once_the_last_key_fastest():
    spec = parse(GRID)
    points = [(0.5, 0), (0.5, 1), (0.5, 2), (0.0, 0), (0.0, 1), (0.0, 2)]
    assert spec.settings.trials == 6
    assert [(config.lambda_, config.seed) for config in spec.extreme_configs()] == points
    assert parse(yaml.safe_load(yaml.safe_dump(spec.to_dict()))) == spec


def test_a_grid_may_compare_methods_over_keys_they_share_with_values_that_only_one_knows():
    space = {"prompt_lr": {"choice": [0.1]}, "method": {"choice": ["pfedmoap", "promptfl"]}}
    spec = parse({"sampler": "grid", "federation": {"experts": 2}, "space": space}, ["lambda=3"])
    first, second = spec.extreme_configs()
    assert (first.method, first.experts, first.lambda_) == ("pfedmoap", 2, 3)
    assert (second.method, second.prompt_lr) == ("promptfl", 0.1)


def test_a_preset_wins_over_the_search_file_and_set_over_both(tmp_path):
    (tmp_path / "space.yaml").write_text(yaml.safe_dump({**GOOD, "federation": {"rounds": 4, "clients": 12}}))
    (tmp_path / "preset.yaml").write_text("{rounds: 5, local_epochs: 7, prompt_lr: 0.5}")
    spec = read_sweep(tmp_path / "space.yaml", ["local_epochs=8"], config=tmp_path / "preset.yaml")
    config = spec.base_config()
    assert (config.clients, config.rounds, config.local_epochs) == (12, 5, 8)
    assert "prompt_lr" in spec.space
    (tmp_path / "preset.yaml").write_text("{round: 5}")
    with pytest.raises(ConfigError, match="unknown key 'round'; did you mean 'rounds'"):
        read_sweep(tmp_path / "space.yaml", config=tmp_path / "preset.yaml")


def test_a_preset_that_names_a_dataset_has_its_own_clients(root, tmp_path, caplog):
    caplog.set_level("INFO")
    (tmp_path / "preset.yaml").write_text("{dataset: cifar10, partition: {kind: dirichlet}}")
    spec = read_sweep(root / "search_spaces" / "gating.yaml", config=tmp_path / "preset.yaml")
    partition = spec.base_config().partition
    assert (partition.kind, partition.shots, partition.val_fraction) == ("dirichlet", None, 0.15)
    own = read_sweep(root / "search_spaces" / "gating.yaml")
    assert own.base_config().partition.shots is not None
    assert spec.base_config().prompt_lr == own.base_config().prompt_lr, "hyperparameters stay"
    assert "preset.yaml names a dataset: of " in caplog.text
    assert "clients, partition.shots, partition.val_fraction are not used" in caplog.text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"space": GOOD["space"]},
            r"space.prompt_lr: a grid needs \{choice: \[a, b, ...\]\} or \{int: \[low, high\]\}",
        ),
        ({"trials": 5}, "trials: got 5, but a grid runs each of its 6 points; leave it out"),
        ({"space": {"lambda": {"choice": [0.5, -1]}}}, "lambda: got -1, should be greater than or equal to 0"),
        ({"space": {"rounds": {"choice": [1, 2]}}}, "a sweep keeps rounds fixed"),
        ({"space": {"method": {"int": [0, 1]}}}, r"space.method: got .* should be \{choice: \[name, ...\]\}"),
        (
            {"space": {"method": {"choice": ["pfedmoap", "promptfl"]}, "lambda": {"choice": [1]}}},
            "unknown key 'lambda'",
        ),
        ({"sampler": "tpe", "space": {"method": {"choice": ["pfedmoap"]}}}, "a sweep keeps method fixed"),
    ],
)
def test_a_grid_that_cannot_be_run_says_why(values, message):
    with pytest.raises(ConfigError, match=message):
        parse({**GRID, **values})


def test_the_robustness_grid_attacks_half_of_its_federations(root):
    configs = list(read_sweep(root / "search_spaces" / "robustness.yaml").extreme_configs())
    assert len(configs) == 36
    assert sum(bool(adversaries(config)) for config in configs) == 18
    assert all(trimmed(config, 10) >= len(adversaries(config)) for config in configs if config.aggregation != "mean")


def test_the_papers_ablations_run_on_digits_and_on_the_presets_their_headers_name(root):
    files = sorted((root / "search_spaces" / "paper").glob("*.yaml"))
    assert len(files) >= 5
    for file in files:
        header = file.read_text()
        config = re.search(r"--config (configs/paper/\w+\.yaml)", header).group(1)
        assert f"python jobs/tune.py --search {file.relative_to(root)}\n" in header
        on_digits, as_published = read_sweep(file), read_sweep(file, config=root / config)
        assert on_digits.base_config().dataset.startswith("digits")
        assert as_published.base_config().dataset == config.split("/")[-1].removesuffix(".yaml")
        assert list(on_digits.space) == list(as_published.space)
        assert on_digits.settings.trials == len(grid_points(on_digits.space))


def test_extremes_are_values_that_can_be_drawn():
    """K of nine others, in steps of two from one: ten would be one too many, and is never drawn."""
    assert IntRange(1, 10, step=2).extremes() == (1, 9)
    spec = parse_sweep({"federation": {"clients": 10}, "space": {"experts": {"int": [1, 10], "step": 2}}}, source="a")
    assert spec.space["experts"].contains(9)
