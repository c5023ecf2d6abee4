"""A copy of the storage at an address: what goes there, in which order, and that it can be gone on from."""

import sqlite3
import time
from contextlib import closing

import pytest

from promptfleet.config import StorageConfig
from promptfleet.errors import ConfigError
from promptfleet.federation import storage_copy
from promptfleet.federation.storage_copy import StorageCopy, copied, fetch_copy

CHECKPOINT = "sweeps/a/trials/000/checkpoints/round-000001.safetensors"


@pytest.fixture
def storage(tmp_path):
    (tmp_path / "here" / CHECKPOINT).parent.mkdir(parents=True)
    return StorageConfig(path=str(tmp_path / "here"), copy_to=(tmp_path / "there").as_uri())


def write(tmp_path, name, text):
    path = tmp_path / "here" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_what_counts_is_copied_and_what_is_gone_is_removed(tmp_path, storage):
    write(tmp_path, CHECKPOINT, "one")
    for name in ("features/x.arrow", "sweeps/a/tune/notes.json", "a.lock", "a.partial", ".reachable-1", "b.db-wal"):
        write(tmp_path, name, "no")
    copy = StorageCopy(storage)
    copy.check()
    assert copy.push() == 1
    assert copy.push() == 0
    assert names(tmp_path / "there") == [CHECKPOINT]
    second = CHECKPOINT.replace("1.", "2.")
    write(tmp_path, second, "two")
    (tmp_path / "here" / CHECKPOINT).unlink()
    assert copy.push() == 1
    assert names(tmp_path / "there") == [second]


def test_databases_are_copied_first_and_as_they_are_between_two_transactions(tmp_path, storage, monkeypatch):
    written = []
    monkeypatch.setattr(StorageCopy, "_write", lambda copy, content, name: written.append((name, content)))
    write(tmp_path, CHECKPOINT, "one")
    with closing(sqlite3.connect(tmp_path / "here" / "study.db", isolation_level=None)) as live:
        live.execute("PRAGMA journal_mode = WAL")
        live.execute("CREATE TABLE rounds (round)")
        live.execute("INSERT INTO rounds VALUES (1)")
        live.execute("BEGIN IMMEDIATE")
        live.execute("INSERT INTO rounds VALUES (2)")
        StorageCopy(storage).push()
        live.execute("COMMIT")
    assert [name for name, _ in written] == ["study.db", CHECKPOINT]
    (tmp_path / "copy.db").write_bytes(written[0][1])
    with closing(sqlite3.connect(tmp_path / "copy.db")) as still:
        assert still.execute("SELECT round FROM rounds").fetchall() == [(1,)]


def test_what_is_missing_is_fetched_and_what_is_there_stays(tmp_path, storage):
    write(tmp_path, CHECKPOINT, "one")
    write(tmp_path, "sweeps/a/sweep.yaml", "old")
    with copied(storage):
        pass
    (tmp_path / "here" / CHECKPOINT).unlink()
    write(tmp_path, "sweeps/a/sweep.yaml", "new")
    assert fetch_copy(storage) == 1
    assert (tmp_path / "here" / CHECKPOINT).read_text() == "one"
    assert (tmp_path / "here/sweeps/a/sweep.yaml").read_text() == "new"
    assert fetch_copy(StorageConfig(path=storage.path)) == 0


def test_an_address_that_refuses_later_is_tried_again_and_told(tmp_path, storage, monkeypatch, caplog):
    monkeypatch.setattr(storage_copy, "PAUSE_S", 0.01)
    write(tmp_path, CHECKPOINT, "one")
    refusals, write_file = iter(["connection lost"]), StorageCopy._write

    def refuse_once(copy, content, name):
        for reason in refusals:
            raise OSError(reason)
        write_file(copy, content, name)

    with copied(storage):
        monkeypatch.setattr(StorageCopy, "_write", refuse_once)
        deadline = time.monotonic() + 10
        while "not copied (connection lost); trying again" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert names(tmp_path / "there") == [CHECKPOINT]


@pytest.mark.parametrize(
    ("address", "complaint"),
    [("gopher://x/y", "Unrecognized filesystem type"), ("file:///proc/none/of", "Cannot create directory")],
)
def test_an_address_that_cannot_be_used_is_named_before_anything_starts(tmp_path, address, complaint):
    storage = StorageConfig(path=str(tmp_path), copy_to=address)
    with pytest.raises(ConfigError, match=complaint) as caught, copied(storage):
        pass
    assert str(caught.value).startswith(f"storage.copy_to={address}: cannot be used (")
    assert "\n" not in str(caught.value)
