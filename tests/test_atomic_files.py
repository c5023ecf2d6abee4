"""A file is replaced in one step, and whatever goes wrong leaves the old one."""

import errno
import os
import stat

import pytest

from promptfleet.atomic_files import replacing


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_old_content_stands_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("old")
    with replacing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
        assert partial.parent == tmp_path
    assert path.read_text() == "new"
    assert names(tmp_path) == ["result.json"]


def test_the_folder_is_made(tmp_path):
    with replacing(str(tmp_path / "a" / "b" / "result.json")) as partial:
        partial.write_text("new")
    assert (tmp_path / "a" / "b" / "result.json").read_text() == "new"


def test_an_error_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("old")

    def write_half(partial):
        partial.write_text("half of the n")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), replacing(path) as partial:
        write_half(partial)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["result.json"]


def test_writing_nothing_is_an_error(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("old")
    with pytest.raises(FileNotFoundError) as caught, replacing(path):
        pass
    assert caught.value.filename == str(path)
    assert path.read_text() == "old"


def test_the_content_is_on_disk_before_the_name_changes(tmp_path, monkeypatch):
    path, order = tmp_path / "result.json", []
    monkeypatch.setattr(os, "fsync", lambda descriptor: order.append(os.pread(descriptor, 9, 0)))
    rename = os.replace
    monkeypatch.setattr(os, "replace", lambda *names: (order.append("rename"), rename(*names)))
    with replacing(path) as partial:
        partial.write_text("new")
    assert order == [b"new", "rename"]


def test_two_writers_do_not_share_a_temporary_file(tmp_path):
    path = tmp_path / "result.json"
    with replacing(path) as one:
        one.write_text("one")
        with replacing(path) as other:
            other.write_text("other")
        assert path.read_text() == "other"
    assert path.read_text() == "one"
    assert names(tmp_path) == ["result.json"]


def test_a_disk_that_is_full_in_the_middle_names_the_file(tmp_path):
    def write(partial):
        partial.write_text("half of the n")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as write() does, without a name

    wanted = r"No space left on device: '.*/new/result\.json'$"
    with pytest.raises(OSError, match=wanted), replacing(tmp_path / "new" / "result.json") as partial:
        write(partial)
    assert names(tmp_path / "new") == []


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_the_permissions_are_those_of_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        with replacing(tmp_path / "result.json") as partial:
            partial.touch(mode=0o600)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "result.json").stat().st_mode) == 0o666 & ~umask
