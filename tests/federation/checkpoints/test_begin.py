"""A folder of results: what it holds is never lost, by whatever is begun there."""

import errno
import json
import os
import re
import shutil
from pathlib import Path

import pytest

from promptfleet import run_federation
from promptfleet.errors import ConfigError, DataError, PromptfleetError, StorageError
from promptfleet.federation.checkpoints import begin as folder_module
from promptfleet.federation.checkpoints.begin import CONFIG_FILE, check_new, default_folder, resumed_config
from promptfleet.federation.checkpoints.files import FOLDER
from promptfleet.federation.checkpoints.folder import RESULT_FILE
from promptfleet.federation.settings import federation_config

PRIVATES, CHECKPOINTS = (
    [f"{FOLDER}/{kind}-00000{number}.safetensors" for number in (1, 2)] for kind in ("privates", "round")
)


@pytest.fixture(scope="module")
def values(storage, tmp_path_factory):
    """Two rounds of the quick stand-in method, in this process."""
    return {
        "method": "tests.faulty:Faulty",
        "faults_folder": str(tmp_path_factory.mktemp("faults")),
        "clients": 3,
        "rounds": 2,
        "local_epochs": 1,
        "storage": {"path": storage},
        "runtime": {"backend": "local"},
    }


@pytest.fixture(scope="module")
def original(values, tmp_path_factory):
    folder = tmp_path_factory.mktemp("original") / "mine"
    run_federation(values, folder=folder)
    return folder


@pytest.fixture
def finished(original, values, tmp_path):
    """A folder of a finished federation, and its configuration."""
    return Path(shutil.copytree(original, tmp_path / "mine")), federation_config(values)


def names(folder):
    """The names of all files; those of private states without the hash in them."""
    return sorted(re.sub(r"-[0-9a-f]{16}\.", ".", name) for name in contents(folder))


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_federation_leaves_its_configuration_result_and_checkpoints(finished):
    folder, config = finished
    assert names(folder) == [*PRIVATES, *CHECKPOINTS, CONFIG_FILE, RESULT_FILE]
    assert resumed_config(folder, [], trust_code=True) == config
    assert resumed_config(folder, ["runtime.retries=7"], trust_code=True).runtime.retries == 7
    with pytest.raises(ConfigError, match=r"--set seed=4: a resumed federation keeps its configuration"):
        resumed_config(folder, ["seed=4"], trust_code=True)


def test_a_federation_of_a_version_with_other_keys_is_not_resumed(tmp_path):
    (tmp_path / CONFIG_FILE).write_text("method: pfedmoap\npool_storage: memory\n")
    with pytest.raises(ConfigError) as caught:
        resumed_config(tmp_path, [])
    assert str(caught.value) == f"{tmp_path / CONFIG_FILE}: unknown key 'pool_storage'; it is now 'pool.storage'"


def test_a_finished_federation_of_another_configuration_stays(finished, values):
    folder, config = finished
    before = contents(folder)
    other = federation_config({**values, "seed": 5, "clients": 4})
    complaint = r"holds a federation with another configuration \(seed=0 instead of 5, clients=3 instead of 4\); choose"
    with pytest.raises(ConfigError, match=rf"^--out {folder}: {complaint} another folder, or .*--overwrite"):
        check_new(folder, other, overwrite=False)
    with pytest.raises(DataError, match=rf"^{folder}: {complaint}"):
        run_federation(other, folder=folder)
    check_new(folder, config, overwrite=False)  # the same one: its result is there
    assert contents(folder) == before
    elsewhere = federation_config({**values, "data": {"root": "other-images"}})
    with pytest.raises(ConfigError, match=r"data\.root=data instead of other-images"):
        check_new(folder, elsewhere, overwrite=False)


def test_the_same_federation_gives_its_result_again_and_overwritten_it_is_run_again(finished, values):
    folder, _ = finished
    rounds = []
    again = run_federation(values, folder=folder, on_round=rounds.append)
    assert (len(again.rounds), rounds) == (2, [])
    once_more = run_federation(values, folder=folder, on_round=rounds.append, overwrite=True)
    assert len(rounds) == 2
    assert once_more.state_sha256 == again.state_sha256


@pytest.mark.parametrize(
    "impossible", [{"dataset": "cifar-10"}, {"partition": {"min_samples": 900}}, {"prompt_length": 90}]
)
def test_a_federation_that_cannot_start_touches_nothing_and_leaves_no_folder(finished, values, tmp_path, impossible):
    folder, _ = finished
    before = contents(folder)
    for overwrite in (False, True):
        with pytest.raises(PromptfleetError):
            run_federation({**values, **impossible}, folder=folder, overwrite=overwrite)
        with pytest.raises(PromptfleetError):
            run_federation({**values, **impossible}, folder=tmp_path / "new" / "one", overwrite=overwrite)
    assert contents(folder) == before
    assert not (tmp_path / "new").exists()


def test_a_disk_that_takes_no_configuration_leaves_no_folder(values, tmp_path, monkeypatch):
    def refuse(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(folder_module, "replacing", refuse)
    with pytest.raises(StorageError, match=r"config\.yaml: cannot be written \(No space left on device\); free some"):
        run_federation(values, folder=tmp_path / "new" / "one")
    assert not (tmp_path / "new").exists()


def test_one_that_was_stopped_is_resumed_from_python_and_refused_as_a_new_one(values, tmp_path):
    folder = tmp_path / "mine"
    stopped = federation_config({**values, "rounds": 2})

    def stop(report):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_federation(stopped, folder=folder, on_round=stop)
    assert names(folder) == [PRIVATES[0], CHECKPOINTS[0], CONFIG_FILE, RESULT_FILE]
    with pytest.raises(ConfigError, match=rf"stopped after round 1; resume it with --resume {folder}, or give --over"):
        check_new(folder, stopped, overwrite=False)
    rounds = []
    assert len(run_federation(stopped, folder=folder, on_round=rounds.append).rounds) == 2
    assert [report.round for report in rounds] == [2]


def test_a_result_that_was_deleted_comes_back_from_the_checkpoint(finished, values):
    folder, _ = finished
    before = json.loads((folder / RESULT_FILE).read_text())
    (folder / RESULT_FILE).unlink()
    run_federation(values, folder=folder, on_round=lambda report: pytest.fail("a round was run"))
    after = json.loads((folder / RESULT_FILE).read_text())
    measured = ("checkpoint_bytes", "checkpoint_seconds")
    assert {**after, **dict.fromkeys(measured)} == {**before, **dict.fromkeys(measured)}


def test_a_result_without_checkpoints_is_not_run_over(finished, values):
    folder, config = finished
    for name in CHECKPOINTS:
        (folder / name).unlink()
    before = contents(folder)
    for run in (lambda: run_federation(values, folder=folder), lambda: check_new(folder, config, overwrite=False)):
        with pytest.raises(PromptfleetError, match=r"holds a result without its checkpoints; .* overwrite=True"):
            run()
    assert contents(folder) == before
    run_federation(values, folder=folder, overwrite=True)
    assert names(folder) == [*PRIVATES, *CHECKPOINTS, CONFIG_FILE, RESULT_FILE]


def test_with_nothing_but_damage_it_starts_again_only_if_that_is_asked_for(finished, values):
    folder, _ = finished
    for name in CHECKPOINTS:
        (folder / name).write_bytes(b"damaged")
    before = contents(folder)
    wanted = (
        rf"none of the 2 checkpoints there can be used; start again at round 1 by --config {folder}/config.yaml --out"
    )
    with pytest.raises(DataError, match=wanted):
        run_federation(values, folder=folder)
    assert contents(folder) == before
    assert len(run_federation(values, folder=folder, overwrite=True).rounds) == 2


def test_default_folders_differ_where_configurations_do(values, tmp_path, monkeypatch):
    def name(**more):
        return default_folder(federation_config({"storage": {"path": "results"}, **more}))

    assert name() == name() == name(runtime={"backend": "local"}, checkpoints={"keep": 7})
    assert re.fullmatch(r"results/federations/pfedmoap-digits-seed0-[0-9a-f]{8}", str(name()))
    others = [{"seed": 1}, {"clients": 9}, {"prompt_lr": 0.5}, {"partition": {"alpha": 0.1}}, {"data": {"root": "x"}}]
    assert len({name(), *(name(**other) for other in others)}) == 1 + len(others)
    long = default_folder(federation_config(values).model_copy(update={"method": "a/b:" + "Class" * 100}))
    assert len(long.name) < 120
    assert "/" not in long.name


def test_a_folder_that_is_none_is_told_with_those_that_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"^--resume mine: no federation was begun there \(it has no config\.yaml\)$"):
        resumed_config(Path("mine"), [])
    for number in range(14):
        path = Path(f"results/federations/one-{number}") / CONFIG_FILE
        path.parent.mkdir(parents=True)
        path.write_text("seed: 1")
        os.utime(path, (number, number))
    told = (
        r"\(did you mean 'results/federations/one-12'\?\); there are: results/federations/one-13, .*one-2 and 2 more$"
    )
    with pytest.raises(ConfigError, match=told):
        resumed_config(Path("results/federation/one-12"), [])
