"""Ray's temporary files: their place, and their removal."""

import os
import signal
from pathlib import Path

import pytest

from promptfleet.cluster import session_folder as ray_folder_module
from promptfleet.cluster.session_folder import LOCK, LONGEST, ray_folder
from promptfleet.errors import ResourceError


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder for temporary files, as long as it may be or shorter; the usual ones are elsewhere."""
    monkeypatch.setattr(ray_folder_module, "LONGEST", len(str(tmp_path / "place")))
    monkeypatch.setattr(ray_folder_module, "USUAL", (str(tmp_path / "usual"),))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    for name in ("place", "usual"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "place"))
    return tmp_path / "place"


def test_a_folder_is_private_and_goes_with_its_block(place):
    with ray_folder(0) as folder:
        assert folder.parent == place
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "session/logs").mkdir(parents=True)
    assert not list(place.iterdir())


def test_the_longest_path_that_ray_makes_below_fits_a_socket():
    path = "/" + "x" * (LONGEST - 1) + "/pf-12345678/session_2026-11-28_05-18-55_123456_4194304/sockets/plasma_store"
    assert len(path) == 107


@pytest.mark.parametrize("trouble", ["long", "missing", "a file", "not UTF-8"])
def test_another_folder_is_taken_where_this_one_cannot_be_and_told_why(place, monkeypatch, caplog, trouble):
    bad = {"long": place / "x", "missing": place / "x", "a file": place, "not UTF-8": place.with_name("p\udcff")}[
        trouble
    ]
    reason = "cannot be written"
    if trouble == "long":
        bad.mkdir()
        reason = f"is too long for sockets ({len(str(bad))} bytes, at most {len(str(place))})"
    elif trouble == "missing":
        monkeypatch.setattr(ray_folder_module, "LONGEST", 1000)
    elif trouble == "a file":
        place.rmdir()
        place.touch()
    else:
        reason = "is not UTF-8"
    monkeypatch.setenv("TMPDIR", str(bad))
    with caplog.at_level("INFO", logger="promptfleet"), ray_folder(0) as folder:
        assert folder.parent == place.with_name("usual")
    assert f"Ray keeps its temporary files in {folder.parent}: " in caplog.text
    assert reason in caplog.text


def test_a_folder_that_was_asked_for_is_refused_with_the_reason(place, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(place / "x"))
    wanted = (
        r"^Ray has no folder for its temporary files: .*/x is too long for sockets .*; set RAY_TMPDIR to another one$"
    )
    with pytest.raises(ResourceError, match=wanted), ray_folder(0):
        pass


def test_what_a_killed_driver_left_is_removed_by_the_next_and_nothing_else(place):
    others = [place / "pf-without-a-lock", place / "another"]
    for folder in others:
        folder.mkdir()
    with ray_folder(0) as in_use:
        killed = killed_driver()
        assert [path for path in place.iterdir() if path not in others and path != in_use] == [killed]
        with ray_folder(0) as next_one:
            assert sorted(place.iterdir()) == sorted([*others, in_use, next_one])
            assert (in_use / LOCK).exists()


def killed_driver() -> Path:
    """Return the folder of a process that is killed while it has one."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        with ray_folder(0) as folder:
            (folder / "session/logs").mkdir(parents=True)
            os.write(writer, bytes(folder))
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    return Path(os.fsdecode(os.read(reader, 1000)))


def test_a_full_disk_is_told_and_another_is_taken(place, monkeypatch, caplog):
    left = {str(place): 2**20, "/dev/shm": 2**26}
    monkeypatch.setattr(ray_folder_module, "_free_bytes", lambda folder: left.get(folder, 2**40))
    with caplog.at_level("INFO", logger="promptfleet"), ray_folder(0) as folder:
        assert folder.parent == place.with_name("usual")
    assert f"{place} has 1 MB left, at least 64 MB are needed" in caplog.text


def test_objects_that_shared_memory_has_no_room_for_need_it_elsewhere(place, monkeypatch, caplog):
    left = {"/dev/shm": 2**26, str(place): 2**30}
    monkeypatch.setattr(ray_folder_module, "_free_bytes", lambda folder: left.get(folder, 2**31))
    with caplog.at_level("INFO", logger="promptfleet"), ray_folder(2**30) as folder:
        assert folder.parent == place.with_name("usual")
    assert "Ray's objects are on disk, which is slower: /dev/shm has 64 MB left, they take 1024 MB" in caplog.text
    assert f"{place} has 1024 MB left, at least 1088 MB are needed" in caplog.text
