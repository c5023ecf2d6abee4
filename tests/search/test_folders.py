"""Sweeps by name: new ones never overwrite, begun ones are found."""

import pytest

from promptfleet.errors import ConfigError
from promptfleet.search.folders import create_sweep, open_sweep
from promptfleet.search.spec import parse_sweep

SPEC = parse_sweep({"space": {"experts": {"int": [1, 9]}}, "trials": 4}, source="test")


def test_without_a_name_the_first_free_number_is_taken(tmp_path):
    names = [create_sweep(SPEC, tmp_path, name=None, default_name="gating").name for _ in range(3)]
    assert names == ["gating", "gating-2", "gating-3"]


def test_a_taken_name_is_refused_and_points_to_resume(tmp_path):
    create_sweep(SPEC, tmp_path, name="mine", default_name="gating")
    with pytest.raises(ConfigError, match="--name mine: there is such a sweep; use --resume mine"):
        create_sweep(SPEC, tmp_path, name="mine", default_name="gating")


@pytest.mark.parametrize("name", ["../up", "a b", "", ".hidden", "a/b"])
def test_a_name_that_is_no_folder_name_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="use letters, digits"):
        create_sweep(SPEC, tmp_path, name=name, default_name="gating")


def test_a_begun_sweep_comes_back_as_it_was(tmp_path):
    folder = create_sweep(SPEC, tmp_path, name="mine", default_name="gating")
    assert open_sweep(tmp_path, "mine", trials=None) == (folder, SPEC)
    assert open_sweep(tmp_path, "mine", trials=9)[1].settings.trials == 9
    assert open_sweep(tmp_path, "mine", trials=None)[1].settings.trials == 9


def test_an_unknown_name_names_those_there_are(tmp_path):
    with pytest.raises(ConfigError, match="--resume mine: no sweep was begun yet in"):
        open_sweep(tmp_path, "mine", trials=None)
    for name in ("gating", "shots"):
        create_sweep(SPEC, tmp_path, name=name, default_name="x")
    with pytest.raises(ConfigError, match=r"no such sweep \(did you mean 'gating'\?\); there are: gating, shots$"):
        open_sweep(tmp_path, "gatin", trials=None)
