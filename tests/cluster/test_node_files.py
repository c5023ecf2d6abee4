"""A copy of another node's file is used only if it is what was copied, and nobody else could have put it there."""

import os
import tempfile
from types import SimpleNamespace

import numpy as np
import pytest

from promptfleet.cluster import node_files as ray_files
from promptfleet.cluster.node_files import NodeFile, copies_folder
from promptfleet.data.feature_store import write_features
from promptfleet.errors import DataError


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """This node's folder of temporary files."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


@pytest.fixture
def file(tmp_path, temporary, monkeypatch):
    """A file of a node called ``other``, which counts how often it is copied."""
    path = write_features(tmp_path, {"backbone": "b"}, np.ones((4, 3), np.float32), np.arange(4))
    copied = []

    def chunks(self):
        copied.append(self)
        yield path.read_bytes()

    context = SimpleNamespace(get_node_id=lambda: "this")
    monkeypatch.setattr(ray_files.ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(ray_files.ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setattr(NodeFile, "_chunks", chunks)
    return SimpleNamespace(node_file=NodeFile.of(path, "other"), path=path, copied=copied)


def usual(temporary):
    return temporary / f"promptfleet-{os.getuid()}"


def test_it_is_copied_once_into_a_folder_of_this_user_alone(file, temporary):
    copy = file.node_file.here()
    assert copy == file.node_file.here()
    assert copy.read_bytes() == file.path.read_bytes()
    assert len(file.copied) == 1
    assert copy.parent == usual(temporary) / "copies"
    assert usual(temporary).stat().st_mode & 0o777 == 0o700
    assert NodeFile.of(file.path, "this").here() == file.path


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content.replace(np.float32(1).tobytes(), np.float32(2).tobytes(), 1),
        lambda content: bytes(len(content)),
        lambda content: b"",
    ],
)
def test_a_copy_that_is_something_else_is_made_again(file, damage):
    copy = file.node_file.here()
    copy.write_bytes(damage(copy.read_bytes()))
    assert file.node_file.here().read_bytes() == file.path.read_bytes()
    assert len(file.copied) == 2


def open_to_all(folder):
    folder.mkdir()
    folder.chmod(0o777)


def someone_else_s(folder):
    if os.getuid() != 0:
        pytest.skip("only root can give a folder away")
    folder.mkdir()
    os.chown(folder, 12345, 12345)


def a_link(folder):
    (folder.parent / "elsewhere").mkdir()
    folder.symlink_to(folder.parent / "elsewhere")


def a_file(folder):
    folder.touch()


@pytest.mark.parametrize("prepare", [open_to_all, someone_else_s, a_link, a_file])
def test_a_folder_that_others_could_prepare_is_not_used(file, temporary, prepare):
    """One with a random name is, which all processes of the job know."""
    prepare(usual(temporary))
    copy = file.node_file.here()
    assert copy.parent.parent.name == f"{usual(temporary).name}-{file.node_file.token}"
    assert copy.parent.parent.stat().st_mode & 0o777 == 0o700
    assert copy == file.node_file.here()
    assert len(file.copied) == 1
    other = NodeFile.of(file.path, "other")
    assert other.token != file.node_file.token


def test_without_any_folder_of_its_own_it_is_one_line(temporary):
    open_to_all(usual(temporary))
    open_to_all(temporary / f"{usual(temporary).name}-known")
    with pytest.raises(DataError, match="is not a folder of this user alone; remove it, or set TMPDIR"):
        copies_folder("known")


def test_a_folder_that_others_may_only_read_is_closed_to_them(temporary):
    usual(temporary).mkdir()
    usual(temporary).chmod(0o755)
    assert copies_folder("x").parent == usual(temporary)
    assert usual(temporary).stat().st_mode & 0o777 == 0o700


def test_what_is_copied_has_to_be_the_file(file, monkeypatch):
    monkeypatch.setattr(NodeFile, "_chunks", lambda self: [bytes(self.bytes)])
    with pytest.raises(DataError, match="is not what was copied; look after the node's disk"):
        file.node_file.here()
