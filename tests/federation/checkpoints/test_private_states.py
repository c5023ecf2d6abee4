"""A checkpoint writes the private states that changed; the others are in files of earlier rounds, as long as needed."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from promptfleet.errors import StorageError
from promptfleet.federation.checkpoints import private_states
from promptfleet.federation.checkpoints.checkpoint import load_checkpoint, load_snapshot, save_snapshot
from promptfleet.federation.checkpoints.files import FOLDER
from promptfleet.federation.checkpoints.folder import FederationFolder
from promptfleet.federation.checkpoints.private_states import NO_STATES
from promptfleet.federation.local_fleet import LocalFleet
from promptfleet.federation.rounds import Federation
from tests import mutated_files
from tests.tiny_federation import tiny_federation


def privates(folder, round_index=None):
    """The files of private states in the folder, or those that a round wrote."""
    found = sorted((folder / FOLDER).glob("privates-*"))
    return [path for path in found if round_index in (None, round_of(path))]


def round_of(path):
    return int(path.name[len("privates-") :][:6])


class Saved:
    """Rounds saved into a folder; the state of client c is filled with the last round in which c trained."""

    def __init__(self, folder, cohorts, keep=1):
        self.folder, self.known, self.trained = folder, NO_STATES, {}
        for round_index, cohort in enumerate(cohorts, start=1):
            self.save(round_index, cohort, keep)

    def save(self, round_index, cohort, keep=1):
        self.trained |= dict.fromkeys(cohort, round_index)
        last = mutated_files.snapshot(round_index)
        states = {
            client: {"prompt": torch.full((2, 3), client + number / 64)} for client, number in self.trained.items()
        }
        snapshot = replace(last, privates=dict(sorted(states.items())))
        self.known = save_snapshot(self.folder, snapshot, "x", keep=keep, known=self.known).states
        self.sha256 = snapshot.sha256

    def values(self, round_index):
        """Clients and rounds of the states in the files that a round wrote."""
        tensors = [load_file(path)["0/prompt"] for path in privates(self.folder, round_index)]
        return sorted((int(value), round(64 * (value % 1))) for one in tensors for value in one[:, 0, 0].tolist())


def test_a_round_writes_the_states_of_those_who_trained(small_config, prepared, tmp_path):
    faulty = {"method": "tests.faulty:Faulty", "faults_folder": str(tmp_path / "faults")}
    config = small_config(**faulty, clients=10, participation=0.2, rounds=4, checkpoints={"keep": 4})
    (tmp_path / "faults").mkdir()
    federation = Federation(config, prepared, LocalFleet(prepared))
    stored = FederationFolder(tmp_path, federation)
    for round_index in range(1, 5):
        cohort = federation.run_round().cohort
        stored.save()
        stored.flush()
        there = [path for path in (tmp_path / FOLDER).iterdir() if f"-{round_index:06d}" in path.name]
        assert stored.last.bytes == sum(path.stat().st_size for path in there)
        (path,) = privates(tmp_path, round_index)
        ids = load_file(path)["0/id"].tolist()
        assert (sorted(ids) == list(range(10))) if round_index == 1 else (sorted(ids) == sorted(cohort))
        assert len(cohort) == 2
        kept = federation.snapshot().privates
        assert all(torch.equal(load_file(path)["0/drawn"][row], kept[ids[row]]["drawn"]) for row in range(len(ids)))
    stored.close()
    assert load_snapshot(tmp_path, config.fingerprint(), 10).sha256 == federation.snapshot().sha256


@pytest.mark.parametrize("name", ["fedsp", "fedtpg"])
def test_those_who_never_trained_cost_nothing(name, tmp_path):
    fed, known, written = tiny_federation(name, clients=3), NO_STATES, []
    for round_index, cohort in enumerate([[0], [1], [1]], start=1):
        fed.run([cohort])
        last = replace(mutated_files.snapshot(round_index), server=fed.server.state, privates=dict(fed.privates))
        saved = save_snapshot(tmp_path, last, "x", keep=3, known=known)
        known = saved.states
        written.append(sum(path.stat().st_size for path in privates(tmp_path, round_index)))
    state = sum(tensor.nbytes for tensor in fed.privates[1].values())
    assert all(state < one < 1.1 * state + 1000 for one in written)
    assert load_snapshot(tmp_path, "x", 3).sha256 == fed.sha256()


def test_a_file_has_small_states_up_to_a_size_or_one_that_is_larger(tmp_path, monkeypatch):
    monkeypatch.setattr(private_states, "FILE_BYTES", 48)
    saved = Saved(tmp_path, [[0, 1, 2]])
    assert [len(load_file(path)["0/prompt"]) for path in privates(tmp_path)] in ([1, 2], [2, 1])
    monkeypatch.setattr(private_states, "FILE_BYTES", 8)
    saved.save(2, [0, 1, 2])
    assert [len(load_file(path)["0/prompt"]) for path in privates(tmp_path, 2)] == [1, 1, 1]
    assert load_snapshot(tmp_path, "x", 3).sha256 == saved.sha256


def test_files_of_few_needed_states_are_given_up_once_they_hold_too_many(tmp_path, monkeypatch):
    cohorts = [[0, 1, 2], [0, 1], [0]]
    assert Saved(tmp_path / "as it is", cohorts).values(3) == [(0, 3)]
    monkeypatch.setattr(private_states, "SPREAD", 5 / 3)
    saved = Saved(tmp_path / "less", cohorts)
    assert saved.values(3) == [(0, 3), (2, 1)]  # of the first file one state of three was needed, of the second 1 of 2
    assert saved.values(2) == [(0, 2), (1, 2)]
    assert [round_of(path) for path in privates(saved.folder)] == [1, 2, 3]  # the first round is the best one
    saved.save(4, [2])
    assert saved.values(4) == [(2, 4)]


def test_what_no_checkpoint_names_is_removed_and_what_a_kept_one_names_stays(tmp_path):
    saved = Saved(tmp_path, [[0, 1, 2], [0], [0, 1, 2]], keep=2)
    assert saved.values(1) == [(0, 1), (1, 1), (2, 1)]
    assert saved.values(2) == [(0, 2)]
    assert saved.values(3) == [(0, 3), (1, 3), (2, 3)]
    (tmp_path / FOLDER / "round-000001.safetensors").write_bytes(b"damaged")  # which is kept, as the best one
    saved.save(4, [0, 1, 2], keep=2)
    assert [round_of(path) for path in privates(tmp_path)] == [3, 4]


def test_with_a_checkpoint_that_cannot_be_read_nothing_is_removed(tmp_path, monkeypatch):
    saved = Saved(tmp_path, [[0, 1, 2]])

    def refuse(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as broken:
        broken.setattr(private_states, "read_metadata", refuse)
        with pytest.raises(StorageError, match=r"round-00000\d\.safetensors: cannot be read \(Input/output error\)"):
            saved.save(2, [0, 1, 2])
    assert len(privates(tmp_path)) == 2


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (Path.unlink, "missing"),
        (lambda path: path.write_bytes(b""), "Error while deserializing header"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"?"), "its states are not what was written"),
    ],
)
def test_a_file_that_is_damaged_is_named_and_older_checkpoints_do_without_it(tmp_path, caplog, damage, why):
    Saved(tmp_path, [[0, 1, 2], [0]], keep=2)
    (path,) = privates(tmp_path, 2)
    damage(path)
    assert len(load_snapshot(tmp_path, "x", 3).reports) == 1
    (message,) = caplog.messages
    assert f"round-000002.safetensors: damaged ({path.name}: {why}" in message
    assert message.endswith("taking the one before")


def test_a_file_that_was_removed_by_hand_is_written_again(tmp_path):
    saved = Saved(tmp_path, [[0, 1, 2], [0]])
    for path in privates(tmp_path, 1):
        path.unlink()
    saved.save(3, [0])
    assert saved.values(3) == [(0, 3), (1, 1), (2, 1)]
    assert load_snapshot(tmp_path, "x", 3).sha256 == saved.sha256


class Killed(BaseException):
    """The end of a process, which no code of it sees."""


@pytest.mark.parametrize("moment", range(5))
def test_a_kill_at_any_point_leaves_a_whole_checkpoint(tmp_path, monkeypatch, caplog, moment):
    """Two files come and two go; nothing is done after the moment."""
    saved = Saved(tmp_path, [[0, 1, 2], [0, 1, 2]])
    done = []

    def dying(real):
        def call(*arguments, **options):
            if ".partial" not in str(arguments[-1]):
                if len(done) >= moment:
                    raise Killed
                done.append(arguments)
            return real(*arguments, **options)

        return call

    with monkeypatch.context() as deadly:
        deadly.setattr(os, "replace", dying(os.replace))
        deadly.setattr(Path, "unlink", dying(Path.unlink))
        try:
            saved.save(3, [0, 1, 2])
            assert moment == 4, "there are no more moments"
        except Killed:
            assert moment < 4
    loaded = load_checkpoint(tmp_path, "x", 3)
    assert len(loaded.snapshot.reports) == (2 if moment < 2 else 3)
    assert caplog.messages == []
    saved.known = loaded.states
    saved.save(3, [0, 1, 2])
    assert load_snapshot(tmp_path, "x", 3).sha256 == saved.sha256
    assert [round_of(path) for path in privates(tmp_path)] == [1, 3]
    assert saved.values(3) == [(0, 3), (1, 3), (2, 3)]
