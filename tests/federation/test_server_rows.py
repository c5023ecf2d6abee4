"""A federation whose pool is on disk gives what it gives in memory, and its files what an undisturbed one's hold."""

import errno
import os

import pytest
import torch

import promptfleet
from promptfleet.config import merge
from promptfleet.errors import ConfigError, DataError, FederationError, StorageError
from promptfleet.federation.checkpoints.begin import begin_folder
from promptfleet.federation.checkpoints.files import FOLDER as CHECKPOINTS
from promptfleet.federation.checkpoints.folder import FederationFolder
from promptfleet.federation.local_fleet import LocalFleet
from promptfleet.federation.rounds import Federation
from promptfleet.federation.server_rows import FOLDER as ROWS
from tests.faulty import order
from tests.tiny_federation import equal

ROUNDS = 3


def begin(config, prepared, folder):
    fleet = LocalFleet(prepared)
    return fleet, Federation(config, prepared, fleet, folder)


def run(federation, rounds=ROUNDS, stored=None):
    while federation.rounds_done < rounds:
        federation.run_round()
        if stored is not None:
            stored.save()
    return federation.result()


def contents(folder):
    return {path.name: path.read_bytes() for path in (folder / ROWS).iterdir()}


def told(result):
    """Return the parts of the rounds' reports that do not depend on the clock."""
    return [
        (one.cohort, one.client_val_accuracy, one.client_test_accuracy, one.train_loss, one.downloaded_bytes)
        for one in result.rounds
    ]


OPTIONS = [
    {},
    {"pool": {"dtype": "float16", "search": "projected"}},
    {"selection": "farthest"},
    {"class_specific_context": True, "gate_sharing": "averaged", "selection": "random"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_it_changes_no_number(few_shot_config, prepared, tmp_path, options):
    downloads, results = [], []
    for storage in ("memory", "disk"):
        config = few_shot_config(rounds=ROUNDS, **merge(options, {"pool": {"storage": storage}}))
        fleet, federation = begin(config, prepared, tmp_path)
        results.append(run(federation))
        downloads.append(fleet.select(ROUNDS + 1, range(3)))
        fleet.close()
    memory, disk = results
    assert told(disk) == told(memory)
    assert disk.clients == memory.clients
    assert all(equal(disk.privates[client], memory.privates[client]) for client in range(3))
    for client, message in downloads[0].items():
        assert equal(downloads[1][client].tensors, message.tensors)
        assert equal(downloads[1][client].attached, message.attached)
    assert any(len(message.tensors["experts"]) for message in downloads[0].values())
    shared = disk.server.keys() & memory.server.keys()
    assert disk.server.keys() - shared == {"pool.place", "pool.end", "pool.digest"}
    assert memory.server.keys() - shared == {"pool.context", "pool.text"}
    assert all(torch.equal(disk.server[name], memory.server[name]) for name in shared)


def test_neither_state_nor_checkpoint_has_the_pool(few_shot_config, prepared, tmp_path):
    results = {}
    for storage in ("memory", "disk"):
        folder = tmp_path / storage
        _, federation = begin(few_shot_config(rounds=ROUNDS, pool={"storage": storage}), prepared, folder)
        stored = FederationFolder(folder, federation)
        run(federation, stored=stored)
        stored.flush()
        stored.close()
        results[storage] = stored.result()
    memory, disk = results["memory"], results["disk"]
    pool = sum(memory.server[name].nbytes for name in ("pool.context", "pool.text"))
    sizes = [sum(tensor.nbytes for tensor in result.server.values()) for result in (memory, disk)]
    assert sizes[0] - sizes[1] == pool - (3 * 8 + 8 + 32)  # places, how many, hash
    assert memory.checkpoint_bytes - disk.checkpoint_bytes > 0.95 * pool
    uploads = sum(len(one.cohort) for one in disk.rounds)
    assert {name: len(content) for name, content in contents(tmp_path / "disk").items()} == {
        kind: uploads * memory.server[f"pool.{kind}"][0].nbytes for kind in ("context", "text")
    }
    assert not (tmp_path / "memory" / ROWS).exists()


@pytest.fixture(scope="module")
def undisturbed(few_shot_config, prepared, tmp_path_factory):
    """The result and the files of three rounds on disk."""
    folder = tmp_path_factory.mktemp("undisturbed")
    _, federation = begin(few_shot_config(rounds=ROUNDS, pool={"storage": "disk"}), prepared, folder)
    return run(federation), contents(folder)


@pytest.mark.parametrize("stopped", [1, 2])
def test_resumed_from_any_checkpoint_it_writes_the_same_rows_again(
    few_shot_config, prepared, tmp_path, undisturbed, stopped
):
    wanted, files = undisturbed
    config = few_shot_config(rounds=ROUNDS, pool={"storage": "disk"})
    _, first = begin(config, prepared, tmp_path)
    stored = FederationFolder(tmp_path, first)
    run(first, stopped, stored)
    stored.flush()
    stored.close()
    first.run_round()  # whose state nobody will know of
    for path in (tmp_path / ROWS).iterdir():
        with path.open("ab") as file:
            file.write(b"half a row")

    _, again = begin(config, prepared, tmp_path)
    stored = FederationFolder(tmp_path, again)
    assert stored.restore() == stopped
    result = run(again, stored=stored)
    stored.close()
    assert result.state_sha256 == wanted.state_sha256
    assert told(result) == told(wanted)
    left = contents(tmp_path)
    assert {kind: left[kind][: len(content)] for kind, content in files.items()} == files


def test_begun_anew_it_starts_from_the_first_row(few_shot_config, prepared, tmp_path, undisturbed):
    wanted, files = undisturbed
    _, federation = begin(few_shot_config(rounds=ROUNDS, pool={"storage": "disk"}), prepared, tmp_path)
    run(federation, 2)
    federation.begin_anew()
    assert run(federation).state_sha256 == wanted.state_sha256
    assert contents(tmp_path) == files


def test_a_snapshot_stays_valid_while_rounds_go_on(few_shot_config, prepared, tmp_path):
    fleet, federation = begin(few_shot_config(rounds=ROUNDS, pool={"storage": "disk"}), prepared, tmp_path)
    federation.run_round()
    snapshot, downloads = federation.snapshot(), fleet.select(2, range(3))
    run(federation)
    assert not torch.equal(fleet.select(2, [0])[0].tensors["context"], downloads[0].tensors["context"])
    federation.restore(snapshot)
    for client, message in fleet.select(2, range(3)).items():
        assert equal(message.tensors, downloads[client].tensors)
        assert equal(message.attached, downloads[client].attached)


@pytest.fixture
def cut_off(few_shot_config, prepared, tmp_path):
    """A stored federation whose file of prompts has lost its last byte."""
    config = few_shot_config(rounds=ROUNDS, pool={"storage": "disk"})
    _, federation = begin(config, prepared, tmp_path)
    stored = FederationFolder(tmp_path, federation)
    run(federation, 2, stored)
    stored.flush()
    stored.close()
    path = tmp_path / ROWS / "context"
    path.write_bytes(path.read_bytes()[:-1])
    return config


CUT_OFF = r"^/.*/rows/context: cut off or of another federation \(8191 bytes, the server's state needs 8192\)$"


def test_a_file_that_was_cut_off_is_told_when_it_is_gone_on_with(cut_off, prepared, tmp_path):
    _, federation = begin(cut_off, prepared, tmp_path)
    stored = FederationFolder(tmp_path, federation)
    with pytest.raises(DataError, match=CUT_OFF):
        stored.restore()
    stored.close()


def test_a_new_federation_in_the_folder_begins_without_rows(cut_off, tmp_path):
    begin_folder(tmp_path, cut_off)
    assert list((tmp_path / ROWS).iterdir()) == list((tmp_path / CHECKPOINTS).iterdir()) == []


def test_a_full_disk_is_told_and_leaves_the_state_as_it_was(
    few_shot_config, prepared, tmp_path, monkeypatch, undisturbed
):
    wanted, files = undisturbed
    _, federation = begin(few_shot_config(rounds=ROUNDS, pool={"storage": "disk"}), prepared, tmp_path)
    run(federation, 1)
    snapshot = federation.snapshot()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(
            StorageError, match=r"rows/context: cannot be written \(No space left on device\); free some"
        ):
            federation.run_round()
    assert equal(federation.snapshot().server, snapshot.server)
    federation.restore(snapshot)
    assert run(federation).state_sha256 == wanted.state_sha256
    assert contents(tmp_path) == files


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"pool": {"outlier_tolerance": 3.0}},
            r"outlier_tolerance takes the median .* needs pool.storage=memory",
        ),
        ({"storage": {"path": "s3://b/p"}}, r"pool.storage=disk needs files .*storage.path=s3://b/p .*give a folder"),
    ],
)
def test_what_does_not_go_together_is_refused(few_shot_config, values, message):
    with pytest.raises(ConfigError, match=message) as error:
        few_shot_config(**merge(values, {"pool": {"storage": "disk"}}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("backend", ["local", "ray"])
def test_without_a_folder_it_is_refused_before_anything_starts(few_shot_config, monkeypatch, backend):
    monkeypatch.setattr("promptfleet.federation.run._fleet", None)
    with pytest.raises(ConfigError, match=r"a pool on disk needs a folder of .* run_federation\(\.\.\., folder="):
        promptfleet.run_federation(few_shot_config(pool={"storage": "disk"}, runtime={"backend": backend}))


@pytest.mark.ray
def test_actors_give_bitwise_the_local_result(ray_session, few_shot_config, tmp_path, undisturbed):
    wanted, files = undisturbed
    config = few_shot_config(rounds=ROUNDS, pool={"storage": "disk"}, runtime={"backend": "ray"})
    result = promptfleet.run_federation(config, folder=tmp_path)
    assert result.state_sha256 == wanted.state_sha256
    assert told(result) == told(wanted)
    assert result.clients == wanted.clients
    assert contents(tmp_path) == files


@pytest.mark.ray
def test_a_server_that_dies_once_its_rows_are_written_changes_nothing(ray_session, few_shot_config, tmp_path):
    faulty = {"method": "tests.faulty_pool:FaultyPool", "faults_folder": str(tmp_path), "pool": {"storage": "disk"}}
    results = []
    for kills in (0, 1):
        if kills:
            order(tmp_path, "aggregated", 2, "kill")
        config = few_shot_config(**faulty, rounds=ROUNDS, runtime={"backend": "ray", "clients_per_actor": 3})
        results.append(promptfleet.run_federation(config, folder=tmp_path / str(kills)))
    calm, killed = results
    assert [[event.stage for event in one.events] for one in killed.rounds] == [[], ["aggregate"], []]
    assert killed.state_sha256 == calm.state_sha256
    assert told(killed) == told(calm)
    assert contents(tmp_path / "1") == contents(tmp_path / "0")


@pytest.mark.ray
def test_a_folder_that_the_server_does_not_see_is_told(ray_session, few_shot_config, tmp_path, monkeypatch):
    monkeypatch.setattr("promptfleet.federation.rounds.rows_folder", lambda *_: tmp_path / "elsewhere")
    monkeypatch.setattr("promptfleet.federation.rounds.make_rows", lambda path: None)  # made on another node alone
    ray = few_shot_config(rounds=1, pool={"storage": "disk"}, runtime={"backend": "ray", "clients_per_actor": 3})
    with pytest.raises(FederationError, match=r"elsewhere/context: cannot be opened where .* that every node sees$"):
        promptfleet.run_federation(ray, folder=tmp_path)


@pytest.mark.ray
def test_what_an_actor_finds_wrong_is_one_line(ray_session, cut_off, few_shot_config, tmp_path):
    ray = few_shot_config(rounds=ROUNDS, pool={"storage": "disk"}, runtime={"backend": "ray", "clients_per_actor": 3})
    with pytest.raises(DataError, match=CUT_OFF) as error:
        promptfleet.run_federation(ray, folder=tmp_path)
    assert type(error.value) is DataError
