"""Working for an address: who may, what a machine finds, and what becomes of it."""

import json
import os
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from promptfleet.config import StorageConfig
from promptfleet.errors import ConfigError, DataError
from promptfleet.federation.checkpoints.begin import begin_folder, check_new, named_folder, resumed_config
from promptfleet.federation.checkpoints.folder import FederationFolder
from promptfleet.federation.local_fleet import LocalFleet
from promptfleet.federation.rounds import Federation
from promptfleet.federation.settings import federation_config
from promptfleet.storage import lease
from promptfleet.storage import sync as home
from promptfleet.storage.remote import RemoteFolder
from promptfleet.storage.sync import synced_storage


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """``machine("a")``: from now on this is that machine; returns its storage."""
    monkeypatch.setattr(lease, "RENEW_S", 0.02)
    monkeypatch.setattr(lease, "WATCH_S", 0.2)
    monkeypatch.setattr(home, "RENEW_S", 0.02)
    monkeypatch.setattr("promptfleet.storage.remote.RETRY_S", 0.02)

    def enter(name):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        return StorageConfig(path=(tmp_path / "there").as_uri())

    return enter


def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def killed(storage):
    """Work for an address as one that is killed: the lease is neither renewed any more nor given back."""
    held = lease.Lease(RemoteFolder(storage, storage.folder), "killed")
    held.take()
    return held


def test_what_is_written_is_there_at_once_and_found_by_another_machine(machine, tmp_path):
    storage = machine("a")
    with synced_storage(storage):
        write(storage.folder / "sweeps/tune/sweep.yaml", "first")
        until((tmp_path / "there/sweeps/tune/sweep.yaml").exists)
        write(storage.folder / "sweeps/tune/sweep.yaml", "last")
        write(storage.folder / "sweeps/tune/tune/notes.json", "of Tune's")
        write(storage.folder / "features/x.arrow", "large")
        write(storage.folder / "features/y.encoding/part", "half")
        write(storage.folder / "sweeps/tune/trials/000/checkpoints/round-000001.safetensors", "brought by its trial")
        write(storage.folder / "sweeps/tune/study.db", "brought by its stage")
    there = tmp_path / "there"
    names = sorted(path.relative_to(there).as_posix() for path in there.rglob("*") if path.is_file())
    assert names == [".in-use.json", "features/x.arrow", "sweeps/tune/sweep.yaml"]
    storage = machine("b")
    with synced_storage(storage):
        found = sorted(path.name for path in storage.folder.rglob("*") if path.is_file())
        assert found == [".home.json", "sweep.yaml"]
        assert (storage.folder / "sweeps/tune/sweep.yaml").read_text() == "last"


def test_a_machine_goes_on_with_its_own_folder_unless_another_one_has_been_there(machine, tmp_path, caplog):
    storage = machine("a")
    with synced_storage(storage):
        write(storage.folder / "result.json", "1")
    write(storage.folder / "result.json", "2, which was not brought any more")
    with synced_storage(storage):
        assert (storage.folder / "result.json").read_text().startswith("2")
    with synced_storage(machine("b")):
        write(machine("b").folder / "result.json", "3")
    storage = machine("a")
    with synced_storage(storage):
        assert (storage.folder / "result.json").read_text() == "3"
    assert (storage.folder.with_suffix(".old") / "result.json").read_text().startswith("2")
    assert f"the files from here are now in {storage.folder.with_suffix('.old')}" in caplog.text


@pytest.mark.parametrize(
    "notes", ["", "{}", '{"name": 1, "sent": {}}', '{"name": "a", "sent": {"x": [1, true]}}', "[" * 9999]
)
def test_notes_that_are_damaged_count_for_nothing(machine, tmp_path, caplog, notes):
    storage = machine("a")
    with synced_storage(storage):
        write(storage.folder / "result.json", "1")
    write(storage.folder / ".home.json", notes)
    with synced_storage(storage):
        assert (storage.folder / "result.json").read_text() == "1"
    assert f"{storage.folder}/.home.json: damaged (" in caplog.text
    assert "using the files at the address" in caplog.text


@pytest.mark.parametrize("held", ["", "[]", '{"folder": "a"}', "[" * 9999, '{"process": "x"}'])
def test_a_mark_of_work_that_is_damaged_is_one_line(machine, tmp_path, held):
    write(tmp_path / "there" / ".in-use.json", held)
    message = r"\.in-use\.json: damaged \([^\n]*\); remove it if no job is at work there$"
    with pytest.raises(DataError, match=message), synced_storage(machine("a")):
        pass


def test_another_job_of_the_machine_is_refused(machine):
    storage = machine("a")
    message = r"another job of this machine is at work there$"
    with synced_storage(storage), pytest.raises(DataError, match=message), synced_storage(storage):
        pass


def test_another_machine_is_refused_while_somebody_is_at_work(machine):
    message = rf"process {os.getpid()} on \S+ is at work there; wait for it, or end it$"
    with synced_storage(machine("a")), pytest.raises(DataError, match=message), synced_storage(machine("b")):
        pass


def test_what_a_killed_one_left_is_taken_over_once_it_was_watched(machine, tmp_path, caplog):
    killed(machine("a"))
    write(tmp_path / "there/sweeps/a/sweep.yaml", "begun")
    storage, started = machine("b"), time.monotonic()
    with synced_storage(storage):
        assert 0.2 <= time.monotonic() - started < 5
        assert (storage.folder / "sweeps/a/sweep.yaml").exists()
    assert f"is marked as in use by process {os.getpid()} on" in caplog.text
    assert json.loads((tmp_path / "there" / ".in-use.json").read_text())["held"] is False


def test_who_was_taken_over_writes_no_more_and_says_so(machine, tmp_path):
    storage = machine("a")

    def work():
        other = {"folder": "other", "process": 1, "host": "elsewhere", "held": True, "count": 1}
        write(tmp_path / "there" / ".in-use.json", json.dumps(other))
        until(lambda: not any(thread.name == "promptfleet-home" for thread in threading.enumerate()))
        write(storage.folder / "result.json", "1")

    with pytest.raises(DataError, match="process 1 on elsewhere is at work there"), synced_storage(storage):
        work()
    assert not (tmp_path / "there" / "result.json").exists()


def test_an_outage_is_waited_for_at_the_end(machine, tmp_path, monkeypatch, caplog):
    storage, send = machine("a"), RemoteFolder._send

    def refuse(*arguments):
        raise OSError("connection lost")

    with synced_storage(storage):
        monkeypatch.setattr(RemoteFolder, "_send", refuse)
        write(storage.folder / "result.json", "1")
        threading.Timer(0.3, lambda: monkeypatch.setattr(RemoteFolder, "_send", send)).start()
    assert (tmp_path / "there" / "result.json").read_text() == "1"
    assert "cannot be used (connection lost); trying again until it can" in caplog.text
    assert "can be used again" in caplog.text


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("gopher://x/y", "no such kind of address (Unrecognized filesystem type"),
        ("file:///proc/none/of", "cannot be used ([Errno 2] Cannot create directory"),
    ],
)
def test_an_address_that_cannot_be_used_is_one_line_before_anything_starts(machine, address, complaint):
    machine("a")
    with pytest.raises(ConfigError) as caught, synced_storage(StorageConfig(path=address)):
        pytest.fail("it began")
    assert str(caught.value).startswith(f"storage.path={address}: {complaint}")
    assert "\n" not in str(caught.value)


def test_a_federation_at_an_address_starts_again_there_only_if_that_is_asked_for(
    machine, tmp_path, small_config, prepared
):
    faulty = {"method": "tests.faulty:Faulty", "faults_folder": str(tmp_path)}
    config = small_config(rounds=3, storage={"path": machine("a").path}, **faulty)
    checkpoint = tmp_path / "there/federations/mine/checkpoints/round-000002.safetensors"
    write(checkpoint, "")
    folder = named_folder(config.storage, "--out", "federations/mine")
    with pytest.raises(
        ConfigError, match=r"^--out federations/mine: .* stopped after round 2; resume it with --resume"
    ):
        check_new(folder, config, overwrite=False)
    check_new(folder, config, overwrite=True)
    with closing(FederationFolder(folder, Federation(config, prepared, LocalFleet(prepared)))) as stored:
        assert checkpoint.exists()
        begin_folder(folder, config)
        stored.bring()
    assert not checkpoint.exists()
    assert resumed_config(folder, [f"storage.path={config.storage.path}"], trust_code=True) == config


def test_a_folder_whose_home_is_an_address_is_not_gone_on_with_as_if_it_had_none(machine, tmp_path):
    config = federation_config({"storage": {"path": machine("a").path}})
    write(tmp_path / "copied/config.yaml", json.dumps(config.to_dict()))
    with pytest.raises(ConfigError, match=rf"its storage\.path is {config.storage.path}; resume it there with"):
        resumed_config(tmp_path / "copied", [])
    assert resumed_config(tmp_path / "copied", ["storage.path=results"]).storage == StorageConfig()


def test_an_address_that_does_not_answer_is_not_waited_for(machine, monkeypatch):
    storage, answered = machine("a"), threading.Event()
    monkeypatch.setattr(home, "ANSWER_S", 0.05)
    monkeypatch.setattr(RemoteFolder, "read", lambda *_: answered.wait(20))
    with pytest.raises(ConfigError, match=r"cannot be used \(no answer within 0 s\)$"), synced_storage(storage):
        pytest.fail("it began")
    answered.set()


def test_a_folder_needs_no_home(tmp_path):
    with synced_storage(StorageConfig(path=str(tmp_path / "results"))):
        assert not Path(tmp_path / "results").exists()
