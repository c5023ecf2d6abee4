"""Messages of clusters/test where it cannot run; it would notice other results and leftovers."""

import json
import os
import sys

import pytest


@pytest.fixture
def run(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "clusters/test"))
    import run

    yield run
    for name in ("run", "scenario", "hosts"):
        del sys.modules[name]


def test_who_is_not_root_is_told_that_it_is_skipped(run, monkeypatch, capsys):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "argv", ["run.py"])
    assert run.main() == 0
    assert capsys.readouterr().out == (
        "cluster-test SKIPPED: hosts are made of Linux namespaces, for which this must run as root\n"
    )


def test_missing_programs_are_named_by_their_packages(run, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(run.shutil, "which", lambda program: None if program in ("sshd", "rsync") else program)
    assert run.why_not() == "programs are missing; on Debian and Ubuntu: apt-get install openssh-server rsync"


def test_a_process_in_a_namespace_is_found(run):
    own = os.readlink("/proc/self/ns/pid")
    assert [line for line in run.members({own}) if line.startswith(f"process {os.getpid()} ")]
    assert run.members({"pid:[1]"}) == []


def test_outcomes_tell_two_sweeps_apart_by_a_single_accuracy(run, tmp_path):
    from scenario import Failed, outcomes, placements

    one_round = {
        "round": 1,
        "client_val_accuracy": [0.5, 0.25],
        "client_test_accuracy": [0.5, 0.75],
        "uploaded_bytes": 8,
        "seconds": 1.0,
        "nodes": {"10.77.0.1": 1, "10.77.0.2": 1},
    }
    for name, value in (("a", 0.25), ("b", 0.25), ("c", 0.26)):
        for trial in ("000", "001"):
            folder = tmp_path / name / "trials" / trial
            folder.mkdir(parents=True)
            rounds = [{**one_round, "client_val_accuracy": [0.5, value], "seconds": hash(name)}]
            (folder / "result.json").write_text(json.dumps({"state_sha256": "x", "rounds": rounds}))
    assert outcomes(tmp_path / "a") == outcomes(tmp_path / "b") != outcomes(tmp_path / "c")
    assert placements(tmp_path / "a") == [one_round["nodes"]] * 2
    (tmp_path / "a/trials/001/result.json").unlink()
    with pytest.raises(Failed, match="1 trials instead of 2"):
        outcomes(tmp_path / "a")
