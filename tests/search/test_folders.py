"""Sweeps by name: new ones never overwrite, begun ones are found."""

import pytest

from promptfleet.config import StorageConfig
from promptfleet.errors import ConfigError, DataError
from promptfleet.search.folders import SWEEPS, read_begun
from promptfleet.search.spec import parse_sweep

SPEC = parse_sweep({"space": {"experts": {"int": [1, 9]}}, "trials": 4}, source="test")


@pytest.fixture
def storage(tmp_path):
    return StorageConfig(path=str(tmp_path))


def create_sweep(storage, *, name=None, default_name="gating"):
    with SWEEPS.create(SPEC.to_dict(), storage, name=name, default_name=default_name) as folder:
        return folder


def open_sweep(storage, name, **options):
    with SWEEPS.resume(storage, name) as folder:
        return read_begun(storage, folder, **options)


def test_without_a_name_the_first_free_number_is_taken(storage):
    names = [create_sweep(storage).name for _ in range(3)]
    assert names == ["gating", "gating-2", "gating-3"]


def test_a_taken_name_is_refused_and_points_to_resume(storage):
    create_sweep(storage, name="mine")
    with pytest.raises(ConfigError, match="--name mine: a sweep of that name exists; resume it with --resume mine"):
        create_sweep(storage, name="mine")


@pytest.mark.parametrize("name", ["../up", "a b", "", ".hidden", "a/b"])
def test_a_name_that_is_no_folder_name_is_refused(storage, name):
    with pytest.raises(ConfigError, match="use letters, digits"):
        create_sweep(storage, name=name)


def test_a_begun_sweep_comes_back_as_it_was(storage):
    create_sweep(storage, name="mine")
    spec = open_sweep(storage, "mine")
    assert spec.to_dict() == {**SPEC.to_dict(), "federation": {"storage": {"path": storage.path}}}
    assert open_sweep(storage, "mine", trials=9).settings.trials == 9
    assert open_sweep(storage, "mine").settings.trials == 4, "reading changes nothing"


def test_one_process_at_a_time_is_at_work_in_a_folder_and_others_may_look(storage):
    with SWEEPS.create(SPEC.to_dict(), storage, name="mine", default_name="x") as folder:
        with pytest.raises(DataError, match="another process is at work there"):
            open_sweep(storage, "mine")
        with SWEEPS.resume(storage, "mine", alone=False) as seen:
            assert seen == folder
    open_sweep(storage, "mine")


def test_a_sweep_that_lies_where_it_was_begun_comes_back_unchanged(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    create_sweep(StorageConfig(), name="mine")
    assert open_sweep(StorageConfig(), "mine") == SPEC


def test_at_an_address_what_was_begun_is_there_before_anything_else(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    storage = StorageConfig(path=(tmp_path / "there").as_uri())
    create_sweep(storage, name="mine")
    assert (tmp_path / "there/sweeps/mine/sweep.yaml").exists()
    with pytest.raises(ConfigError, match=rf"^--resume mine: no sweep was begun yet in {storage.path}x/sweeps$"):
        open_sweep(StorageConfig(path=f"{storage.path}x"), "mine")


def test_an_unknown_name_names_those_there_are(storage):
    with pytest.raises(ConfigError, match="--resume mine: no sweep was begun yet in"):
        open_sweep(storage, "mine")
    for name in ("gating", "shots"):
        create_sweep(storage, name=name)
    with pytest.raises(ConfigError, match=r"no such sweep \(did you mean 'gating'\?\); there are: gating, shots$"):
        open_sweep(storage, "gatin")
