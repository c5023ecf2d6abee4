"""Methods that a setting does not allow: left out where all were asked for, refused where one was named."""

import pytest

from promptfleet.comparison import impossible
from promptfleet.comparison.growth import grown
from promptfleet.comparison.reading import load_comparison, read_comparison
from promptfleet.config import StorageConfig
from promptfleet.errors import ConfigError
from promptfleet.federation.evaluation.schedule import check_sets
from promptfleet.methods import METHODS
from promptfleet.yaml_files import dump_yaml

REASON = "experts=10 must be smaller than clients=10"


def read(*assignments, methods=("promptfl", "pfedmoap"), **options):
    return read_comparison(None, assignments, methods=methods, seeds=(0,), possible_only=True, **options)


def test_a_method_whose_federations_are_not_valid_is_left_out_with_the_reason(tmp_path):
    spec = read("experts=10", methods=tuple(METHODS))
    assert (set(METHODS) - set(spec.methods), set(spec.left_out)) == ({"pfedmoap", "fedjets"},) * 2
    assert REASON in spec.left_out["pfedmoap"]
    file = tmp_path / "comparison.yaml"
    file.write_text(dump_yaml(spec.to_dict()))
    assert load_comparison(file, StorageConfig()) == spec
    assert grown(spec, methods="+pfedmoap", assignments=["experts=3"]).left_out.keys() == {"fedjets"}


def test_a_method_that_has_values_of_its_own_and_a_setting_that_fits_none_are_refused():
    with pytest.raises(ConfigError, match=REASON):
        read("experts=10", "methods.pfedmoap.lambda=1")
    with pytest.raises(ConfigError, match="rounds: got 0"):
        read("rounds=0")


def test_a_method_that_is_found_impossible_while_all_is_prepared_is_left_out_too():
    prepared = []

    def prepare(*configs):
        for config in configs:
            check_sets(config)
        prepared.append([config.method for config in configs])

    sets = ("partition.new_classes=0.5", "evaluation.sets.new=each")
    spec = read(*sets, methods=("promptfl", "linear_probe", "coop"))
    with pytest.raises(ConfigError, match="parameters for each class"):
        impossible.prepare_possible(spec, prepare, possible_only=False)
    possible, _ = impossible.prepare_possible(spec, prepare, possible_only=True)
    assert (possible.methods, list(possible.own), prepared[-1]) == (("promptfl", "coop"),) + (["promptfl", "coop"],) * 2
    assert "parameters for each class" in possible.left_out["linear_probe"]
    with pytest.raises(ConfigError, match="parameters for each class"):
        impossible.prepare_possible(read(*sets, methods=("linear_probe",)), prepare, possible_only=True)
