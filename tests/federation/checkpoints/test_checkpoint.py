"""A federation that was saved goes on as if it had not been interrupted; a file that cannot be trusted is not used."""

import builtins
import errno
import json
import os
import resource
import signal
import stat
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from promptfleet.errors import DataError, StorageError
from promptfleet.federation.checkpoints import checkpoint
from promptfleet.federation.checkpoints import folder as stored
from promptfleet.federation.checkpoints.checkpoint import load_snapshot, read_checkpoint, save_snapshot
from promptfleet.federation.checkpoints.files import FOLDER, DamagedCheckpoint
from promptfleet.federation.checkpoints.folder import RESULT_FILE, FederationFolder, load_result, load_summary
from promptfleet.federation.local_fleet import LocalFleet
from promptfleet.federation.reports import summary_from_json
from promptfleet.federation.rounds import Federation
from promptfleet.methods.parts.states import state_sha256
from tests.mutated_files import snapshot
from tests.tiny_federation import equal


@pytest.fixture
def begin(small_config, prepared, tmp_path_factory):
    """A federation of the quick stand-in method."""
    faulty = {"method": "tests.faulty:Faulty", "faults_folder": str(tmp_path_factory.mktemp("faults"))}

    def begin(**values):
        config = small_config(**faulty, **values)
        return Federation(config, prepared, LocalFleet(prepared))

    return begin


def finish(federation, folder=None):
    while federation.rounds_done < federation.config.rounds:
        federation.run_round()
        if folder is not None:
            folder.save()
    if folder is not None:
        folder.flush()
        folder.close()
        return folder.result()
    return federation.result()


def rounds_in(folder):
    """The checkpoints themselves, oldest first."""
    return sorted((folder / FOLDER).glob("round-*"))


@pytest.fixture
def saved(begin, tmp_path):
    """Three rounds, all kept; the federation's fingerprint and the files, oldest first."""
    federation = begin(rounds=3, checkpoints={"keep": 3})
    finish(federation, FederationFolder(tmp_path, federation))
    return federation.config.fingerprint(), rounds_in(tmp_path)


@pytest.mark.parametrize("search", ["exact", pytest.param("projected", marks=pytest.mark.slow)])
def test_restored_after_any_round_equals_undisturbed(few_shot_config, prepared, tmp_path, search):
    def begin():
        return Federation(few_shot_config(rounds=3, pool={"search": search}), prepared, LocalFleet(prepared))

    undisturbed = begin()
    wanted = finish(undisturbed, FederationFolder(tmp_path / "0", undisturbed))
    for stopped in (1, 2, 3):
        first = begin()
        folder = FederationFolder(tmp_path / str(stopped), first)
        for _ in range(stopped):
            first.run_round()
            folder.save()
        folder.close()

        again = begin()
        folder = FederationFolder(tmp_path / str(stopped), again)
        assert folder.restore() == stopped
        result = finish(again, folder)
        assert result.state_sha256 == wanted.state_sha256
        assert result.clients == wanted.clients
        assert [r.client_test_accuracy for r in result.rounds] == [r.client_test_accuracy for r in wanted.rounds]


def test_a_snapshot_is_of_its_moment_whatever_goes_on(begin):
    federation = begin(rounds=2)
    federation.run_round()
    take, then = federation.take_snapshot(), federation.snapshot().sha256
    federation.run_round()
    assert take().sha256 == then != federation.snapshot().sha256
    assert federation.result(take()).state_sha256 == then
    assert len(federation.result(take()).rounds) == 1


def test_a_tensor_may_have_two_names(begin, tmp_path):
    federation = begin(rounds=1)
    federation.run_round()
    snapshot = federation.snapshot()
    server = {**snapshot.server, "again": snapshot.server["context"]}
    kept = read_checkpoint(save_snapshot(tmp_path, replace(snapshot, server=server), "x").path, "x").snapshot
    assert equal(kept.server, server)


def test_the_stored_result_is_the_federations(begin, tmp_path):
    federation = begin(rounds=2)
    fingerprint = federation.config.fingerprint()
    assert load_result(tmp_path, fingerprint) is None
    assert load_summary(tmp_path, fingerprint) is None
    result = finish(federation, FederationFolder(tmp_path, federation))
    stored = load_result(tmp_path, fingerprint)
    assert stored.to_json() == result.to_json()
    assert state_sha256(stored.server, stored.privates) == stored.state_sha256
    assert sorted(path.name for path in tmp_path.iterdir()) == [FOLDER, "result.json"]


def test_the_summary_needs_no_checkpoint(begin, tmp_path, small_config):
    federation = begin(rounds=1)
    result = finish(federation, FederationFolder(tmp_path, federation))
    for path in (tmp_path / FOLDER).iterdir():
        path.unlink()
    assert load_summary(tmp_path, federation.config.fingerprint()).to_json() == result.to_json()
    with pytest.raises(DataError, match=r"result\.json: the result of a federation with another configuration"):
        load_summary(tmp_path, small_config(rounds=1, seed=9).fingerprint())


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"rounds": 3}', b"\xff", b"[" * 200_000, b"9" * 5000])
def test_a_damaged_result_is_refused(tmp_path, content):
    (tmp_path / "result.json").write_bytes(content)
    with pytest.raises(DataError, match=r"result\.json: damaged"):
        load_summary(tmp_path, "x")


@pytest.mark.parametrize("number", [0.5, "0", True, -1, 10**30])
@pytest.mark.parametrize(
    "change",
    [
        lambda result, number: result.update(best_round=number),
        lambda result, number: result["rounds"][0].update(round=number),
        lambda result, number: result["rounds"][0].update(uploaded_bytes=number),
        lambda result, number: result["rounds"][0].update(rejected={f"{number}.5": "why"}),
        lambda result, number: result["clients"][1].update(num_train=number),
        lambda result, number: result["clients"][1].update(label_counts=[number] * 10),
        lambda result, number: result["clients"][1].update(label_counts=[1]),
        lambda result, number: result["clients"].pop(),
        lambda result, number: result["rounds"].clear(),
    ],
)
def test_crafted_numbers_in_a_result_are_refused(finished, tmp_path, number, change):
    values = json.loads(finished)
    change(values, number)
    (tmp_path / RESULT_FILE).write_text(json.dumps(values))
    with pytest.raises(DataError, match=r"result\.json: damaged \([^\n]*\)$"):
        load_summary(tmp_path, "x")


@pytest.fixture(scope="module")
def finished(small_config, prepared, tmp_path_factory):
    """A result as JSON."""
    folder = str(tmp_path_factory.mktemp("faults"))
    config = small_config(method="tests.faulty:Faulty", faults_folder=folder, rounds=1)
    return finish(Federation(config, prepared, LocalFleet(prepared))).to_json()


def test_the_last_ones_and_the_best_are_kept(begin, tmp_path):
    federation = begin(rounds=1)
    federation.run_round()
    snapshot = federation.snapshot()
    (report,) = snapshot.reports
    for rounds, accuracy in enumerate([0.1, 0.5, 0.5, 0.2, 0.3, 0.4], start=1):
        snapshot.reports[rounds - 1 :] = [replace(report, round=rounds, honest_val_accuracy=accuracy)]
        save_snapshot(tmp_path, snapshot, "x", keep=2)
    kept = sorted(path.name.rpartition("-0000")[2][:2] for path in (tmp_path / FOLDER).iterdir())
    assert kept == sorted(2 * ["02", "05", "06"])  # each with the private states that it names


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_truncated_file_is_told_and_the_one_before_is_taken(saved, tmp_path, keep, caplog):
    fingerprint, files = saved
    files[2].write_bytes(files[2].read_bytes()[:keep])
    assert len(load_snapshot(tmp_path, fingerprint).reports) == 2
    assert f"{files[2]}: damaged" in caplog.text
    assert "taking the one before" in caplog.text


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_altered_bit_goes_unnoticed(data, altered_file):
    checkpoint, fingerprint = altered_file
    path = data.draw(st.sampled_from(sorted(checkpoint.parent.iterdir())))
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(flipped)
    try:
        with pytest.raises(DataError):
            read_checkpoint(checkpoint, fingerprint)
    finally:
        path.write_bytes(content)


@pytest.fixture(scope="module")
def altered_file(small_config, prepared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("altered")
    config = small_config(method="tests.faulty:Faulty", faults_folder=str(folder), rounds=1)
    federation = Federation(config, prepared, LocalFleet(prepared))
    federation.run_round()
    path = save_snapshot(folder, federation.snapshot(), config.fingerprint()).path
    return path, config.fingerprint()


def _crafted(path, **texts):
    """The checkpoint at ``path`` with other texts, whose checksums are right."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    metadata |= texts
    del metadata["sha256"]
    save_file(load_file(path), path, {**metadata, "sha256": checkpoint._checksum(metadata)})


def _changed(path, name, change):
    with safe_open(path, "pt") as file:
        value = json.loads(file.metadata()[name])
    change(value)
    return {name: json.dumps(value)}


@pytest.fixture
def three(tmp_path):
    """Checkpoints of three rounds, as ``saved``, of a federation that never ran."""
    return "x", [save_snapshot(tmp_path, snapshot(rounds), "x", keep=3).path for rounds in (1, 2, 3)]


@pytest.mark.parametrize("index", [0.7, 1.0, "0", True, -1, 10**9, 10**30, None, [0]])
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("clients", lambda clients, index: clients[0].__setitem__(1, index)),
        ("reports", lambda reports, index: reports[1].update(round=index)),
        ("reports", lambda reports, index: reports[1].update(cohort=[index])),
        ("reports", lambda reports, index: reports[1].update(client_val_accuracy=[index])),
        ("evaluations", lambda evaluations, index: evaluations[2].update(client=index)),
    ],
)
def test_crafted_numbers_with_right_checksums_are_not_used(three, tmp_path, caplog, name, change, index):
    fingerprint, files = three
    if (name, index) == ("clients", 1.0):
        index = 1.5
    _crafted(files[2], **_changed(files[2], name, lambda value: change(value, index)))
    assert len(load_snapshot(tmp_path, fingerprint, clients=3).reports) == 2
    assert f"{files[2]}: damaged" in caplog.text


@pytest.mark.parametrize("name", ["files", "clients", "reports", "evaluations"])
@pytest.mark.parametrize("text", ["", "{}", "[]", "[" * 200_000 + "]" * 200_000, "9" * 5000, "null"])
def test_crafted_texts_with_right_checksums_are_not_used(three, tmp_path, caplog, name, text):
    fingerprint, files = three
    _crafted(files[2], **{name: text})
    assert len(load_snapshot(tmp_path, fingerprint, clients=3).reports) == 2
    assert f"{files[2]}: damaged" in caplog.text
    assert max(map(len, caplog.messages)) < 500


def test_a_checkpoint_of_more_or_fewer_clients_or_rounds_is_not_used(saved, tmp_path, caplog):
    fingerprint, files = saved
    with pytest.raises(DamagedCheckpoint, match=r"none of the 3 checkpoints"):
        load_snapshot(tmp_path, fingerprint, clients=4)
    files[0].rename(files[0].with_name("round-000009.safetensors"))
    assert len(load_snapshot(tmp_path, fingerprint, clients=3).reports) == 3
    assert "damaged (it has 1 rounds)" in caplog.text


def test_with_nothing_but_damage_there_is_an_error(saved, tmp_path):
    fingerprint, files = saved
    for path in files:
        path.write_bytes(b"")
    with pytest.raises(DamagedCheckpoint, match=r"checkpoints: none of the 3 checkpoints there can be used$"):
        load_snapshot(tmp_path, fingerprint)
    assert load_snapshot(tmp_path / "elsewhere", fingerprint) is None


class Refusing:
    """``open`` and ``os.listdir`` where the system refuses one path."""

    def __init__(self, monkeypatch, path, number):
        self._path, self._number = str(path), number
        for module, name in ((builtins, "open"), (os, "listdir"), (os, "scandir")):
            monkeypatch.setattr(module, name, self._instead_of(getattr(module, name)))

    def _instead_of(self, real):
        def call(path=".", *arguments, **options):
            if str(path) == self._path:
                raise OSError(self._number, os.strerror(self._number), self._path)
            return real(path, *arguments, **options)

        return call


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE])
@pytest.mark.parametrize("of", ["the newest", "the folder"])
def test_what_cannot_be_read_is_no_damage_and_nothing_older_is_taken(saved, tmp_path, monkeypatch, number, of, begin):
    fingerprint, files = saved
    path = files[2] if of == "the newest" else tmp_path / FOLDER
    Refusing(monkeypatch, path, number)
    with pytest.raises(StorageError, match=rf"^{path}: cannot be read \({os.strerror(number)}\); [a-z]"):
        load_snapshot(tmp_path, fingerprint)
    federation = begin(rounds=3)
    with pytest.raises(StorageError):
        FederationFolder(tmp_path, federation).restore()
    assert all(path.exists() for path in files)


def test_a_folder_in_place_of_a_checkpoint_is_told(saved, tmp_path):
    fingerprint, files = saved
    files[2].unlink()
    files[2].mkdir()
    with pytest.raises(StorageError, match=r"round-000003\.safetensors: cannot be read \(Is a directory\)"):
        load_snapshot(tmp_path, fingerprint)


def test_no_checkpoint_of_a_later_round_is_removed(saved, tmp_path):
    fingerprint, files = saved
    files[1].write_bytes(b"damaged")
    files[2].write_bytes(b"damaged")
    save_snapshot(tmp_path, load_snapshot(tmp_path, fingerprint), fingerprint, keep=1)
    assert files == rounds_in(tmp_path)


def test_checkpoint_and_result_get_the_permissions_of_the_umask(begin, tmp_path):
    federation = begin(rounds=1)
    before = os.umask(0o002)
    try:
        finish(federation, FederationFolder(tmp_path, federation))
    finally:
        os.umask(before)
    files = [tmp_path / FOLDER / "round-000001.safetensors", tmp_path / RESULT_FILE]
    assert [stat.S_IMODE(path.stat().st_mode) for path in files] == [0o664, 0o664]


def test_what_a_killed_writer_has_left_is_removed(saved, tmp_path, begin):
    files = sorted((tmp_path / FOLDER).iterdir())
    for name in ("round-000003.safetensors.0a.partial", ".tmp9OR9cH"):
        (tmp_path / FOLDER / name).write_bytes(b"half")
    FederationFolder(tmp_path, begin(rounds=3)).close()
    assert sorted((tmp_path / FOLDER).iterdir()) == files


def test_another_configuration_is_refused(saved, tmp_path):
    with pytest.raises(DataError, match=r"round-000003\.safetensors: .* another configuration"):
        load_snapshot(tmp_path, "another")


def test_another_version_is_refused(saved, tmp_path, caplog):
    fingerprint, files = saved
    with safe_open(files[2], "pt") as file:
        metadata = file.metadata()
    save_file(load_file(files[2]), files[2], {**metadata, "version": "3"})
    assert len(load_snapshot(tmp_path, fingerprint).reports) == 2
    assert "checkpoint version 3, this promptfleet reads 6" in caplog.text


@pytest.fixture
def full_disk():
    """``full_disk(True)``: no file of this process may grow beyond 2 KB, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def limit(on):
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, before[1]) if on else before)

    yield limit
    limit(False)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_costs_no_round(begin, tmp_path, full_disk):
    wanted = finish(begin(rounds=3))
    federation = begin(rounds=3)
    folder = FederationFolder(tmp_path, federation)
    federation.run_round()
    folder.save()
    folder.flush()
    full_disk(True)
    federation.run_round()
    folder.save()
    with pytest.raises(StorageError, match=r": round 2: cannot be written \(File too large\); free some space"):
        folder.flush()
    full_disk(False)
    assert len(load_snapshot(tmp_path, federation.config.fingerprint()).reports) == 1
    assert len(list((tmp_path / FOLDER).iterdir())) == 2  # nothing half-written is left, and no private state of it
    result = finish(federation, folder)
    assert result.state_sha256 == wanted.state_sha256
    (event,) = result.rounds[2].events
    assert (event.stage, event.action) == ("checkpoint", "kept the one before")
    assert load_result(tmp_path, federation.config.fingerprint()).to_json() == result.to_json()


def test_nobody_else_writes_there_meanwhile(begin, tmp_path, monkeypatch):
    """Such as a trial that outlives its driver for a moment: it would remove what the resumed one has written."""
    monkeypatch.setattr(stored, "LET_GO_S", 0.1)
    federation = begin()
    folder = FederationFolder(tmp_path, federation)
    with pytest.raises(DataError, match=r"another process is at work there; wait for it, or end it$"):
        FederationFolder(tmp_path, federation)
    folder.close()
    FederationFolder(tmp_path, federation).close()


def test_size_and_time_of_the_last_checkpoint_are_in_the_result(begin, tmp_path):
    federation = begin(rounds=2)
    assert federation.rounds_done == 0
    result = finish(federation, FederationFolder(tmp_path, federation))
    assert result.checkpoint_bytes == sum(path.stat().st_size for path in (tmp_path / FOLDER).glob("*-000002*"))
    assert 0 < result.checkpoint_seconds < 60
    found = json.loads((tmp_path / RESULT_FILE).read_text())
    assert (found["checkpoint_bytes"], found["checkpoint_seconds"]) == (
        result.checkpoint_bytes,
        result.checkpoint_seconds,
    )
    del found["checkpoint_bytes"], found["checkpoint_seconds"]
    assert summary_from_json(json.dumps(found)).checkpoint_bytes is None  # of an older promptfleet
