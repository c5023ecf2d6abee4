"""A folder and its home at an address: what goes there, in which order, and what comes back."""

import sqlite3
import threading
import time
from contextlib import closing

import pytest

from promptfleet.config import StorageConfig
from promptfleet.errors import ConfigError
from promptfleet.storage.remote import RemoteFolder, fetch_missing, remote_folder, until_it_answers

CHECKPOINT = "trials/000/checkpoints/round-000001.safetensors"


@pytest.fixture
def storage(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return StorageConfig(path=(tmp_path / "there").as_uri())


@pytest.fixture
def remote(storage):
    return RemoteFolder(storage, storage.folder / "sweeps" / "a")


def write(folder, name, text):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}


def test_what_is_new_goes_there_once_and_what_is_gone_is_removed(tmp_path, remote):
    write(remote.folder, CHECKPOINT, "one")
    for name in ("a.lock", "a.partial", ".note", "b.db-wal", "tune/state.json"):
        write(remote.folder, name, "no")
    there = tmp_path / "there" / "sweeps" / "a"
    remote.push(without=["tune/*"])
    assert files(there) == {CHECKPOINT: "one"}
    (there / CHECKPOINT).write_text("not sent again")
    second = CHECKPOINT.replace("1.", "2.")
    write(remote.folder, second, "two")
    remote.push(without=["tune/*"])
    assert files(there) == {CHECKPOINT: "not sent again", second: "two"}
    (remote.folder / CHECKPOINT).unlink()
    remote.drop()
    assert files(there) == {second: "two"}


def test_on_another_machine_a_folder_becomes_what_it_is_there(storage, remote, monkeypatch, tmp_path):
    write(remote.folder, CHECKPOINT, "one")
    write(remote.folder, "result.json", "{}")
    remote.push()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    other = remote_folder(storage, storage.folder / "sweeps" / "a")
    assert other.folder != remote.folder
    write(other.folder, CHECKPOINT.replace("1.", "2."), "of a federation that is no more")
    write(other.folder, "result.json", "of it, too")
    other.pull()
    assert files(other.folder) == {CHECKPOINT: "one", "result.json": "{}"}
    other.drop()
    assert files(tmp_path / "there" / "sweeps" / "a") == files(other.folder)


def test_databases_are_taken_between_two_transactions_and_arrive_after_what_they_know_of(remote, monkeypatch):
    write(remote.folder, CHECKPOINT, "one")
    read = []
    monkeypatch.setattr(
        RemoteFolder, "_send", lambda self, content, name, meanwhile: read.append((name, content.read_bytes()))
    )
    with closing(sqlite3.connect(remote.folder / "study.db", isolation_level=None)) as live:
        live.execute("CREATE TABLE rounds (round)")
        live.execute("INSERT INTO rounds VALUES (1)")
        live.execute("PRAGMA journal_mode = WAL")
        live.execute("BEGIN IMMEDIATE")
        live.execute("INSERT INTO rounds VALUES (2)")
        remote.push()
        live.execute("COMMIT")
    assert [name for name, _ in read] == [CHECKPOINT, "study.db"]
    copy = remote.folder / "copy.db"
    copy.write_bytes(read[1][1])
    with closing(sqlite3.connect(copy)) as still:
        assert still.execute("SELECT round FROM rounds").fetchall() == [(1,)]


def test_features_go_last_and_only_where_they_are_missing(storage, tmp_path):
    root = RemoteFolder(storage, storage.folder)
    write(storage.folder, "features/x.arrow", "1234")
    write(storage.folder, "z.json", "{}")
    write(tmp_path / "there", "features/x.arrow", "4321")
    pieces = []
    root.push(meanwhile=lambda: pieces.append(sorted(files(tmp_path / "there"))))
    (one,) = pieces
    assert [name.startswith("z.json") for name in one] == [False, True]  # on its way, and nothing after it
    assert files(tmp_path / "there") == {"features/x.arrow": "4321", "z.json": "{}"}
    (storage.folder / "features/x.arrow").unlink()
    for name in ("x.arrow", "y.arrow"):
        fetch_missing(storage, storage.folder / "features" / name)
    assert files(storage.folder / "features") == {"x.arrow": "4321"}


def test_half_a_file_is_never_there_under_its_name(remote, tmp_path):
    write(remote.folder, CHECKPOINT, "one")
    remote.push()
    write(remote.folder, CHECKPOINT, "two, which is killed half-way")

    def die():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        remote.push(meanwhile=die)
    there = files(tmp_path / "there" / "sweeps" / "a")
    assert there.pop(CHECKPOINT) == "one"
    assert [name.endswith(".partial") for name in there] == [True]
    remote.pull()
    assert files(remote.folder) == {CHECKPOINT: "one"}


def test_a_checkpoint_is_there_only_with_the_private_states_that_it_names(remote, storage, tmp_path, monkeypatch):
    """They are uploaded and fetched before it, and go after it."""
    private, there = CHECKPOINT.replace("round-000001", "privates-000001-0123456789abcdef"), tmp_path / "there"
    for name in (CHECKPOINT, private):
        write(remote.folder, name, "1")
    done = []

    def noted(real):
        def call(self, *arguments):
            done.extend(name for name in arguments if isinstance(name, str))
            return real(self, *arguments)

        return call

    for method in ("fetch", "delete"):
        monkeypatch.setattr(RemoteFolder, method, noted(getattr(RemoteFolder, method)))
    sent = []
    remote.push(meanwhile=lambda: sent.append(sorted(path.name.split("-")[0] for path in there.rglob("*00001*"))))
    assert sent == [["privates"], ["privates", "round"]]  # the first one is on its way, then it is there
    other = RemoteFolder(storage, remote.folder)
    other.pull()
    for name in (CHECKPOINT, private):
        (remote.folder / name).unlink()
    other.drop()
    assert done == [private, CHECKPOINT, CHECKPOINT, private]


def test_an_outage_is_told_when_it_begins_and_ends_and_waited_for(monkeypatch, caplog):
    monkeypatch.setattr("promptfleet.storage.remote.RETRY_S", 0.01)
    refusals = iter(["connection lost\nmore", "connection lost", "connection lost"])

    def job():
        for reason in refusals:
            raise OSError(reason)
        return "done"

    assert until_it_answers(job, "s3://bucket") == "done"
    assert caplog.messages == [
        "s3://bucket cannot be used (connection lost); trying again until it can",
        "s3://bucket can be used again",
    ]


def test_an_outage_is_not_waited_for_by_who_is_to_give_up():
    give_up = threading.Event()

    def job():
        raise OSError("connection lost")

    threading.Timer(0.1, give_up.set).start()
    started = time.monotonic()
    with pytest.raises(OSError, match="connection lost"):
        until_it_answers(job, "s3://bucket", give_up)
    assert time.monotonic() - started < 1.5


def test_only_folders_under_an_address_have_a_home(storage, tmp_path):
    assert remote_folder(StorageConfig(path=str(tmp_path)), tmp_path / "sweeps") is None
    assert remote_folder(storage, tmp_path / "elsewhere") is None
    assert remote_folder(storage, storage.folder).folder == storage.folder


def test_no_such_kind_of_address():
    storage = StorageConfig(path="gopher://x/y")
    with pytest.raises(ConfigError, match=r"^storage\.path=gopher://x/y: no such kind of address \(Unrecognized"):
        RemoteFolder(storage, storage.folder).read("a")
