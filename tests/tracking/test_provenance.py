"""Records of a run about its making."""

import shlex
import subprocess
import sys
from importlib import metadata

import pytest

from promptfleet.tracking.provenance import git_tags, provenance, provenance_tags


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A git checkout with one tracked file."""
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)

    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", *identity, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("init", "--quiet")
    (tmp_path / "code.py").write_text("a = 1\n")
    git("add", "code.py")
    git("commit", "--quiet", "--no-verify", "--message", "first")
    git_tags.cache_clear()
    yield tmp_path, git("rev-parse", "HEAD")
    git_tags.cache_clear()


def test_commit_of_a_clean_checkout(checkout):
    folder, commit = checkout
    (folder / "notes.txt").write_text("untracked files do not change what runs")
    expected = {"git_commit": commit, "git_dirty": "false", "mlflow.source.git.commit": commit}
    assert git_tags(folder / "code.py") == expected


def test_changed_code_is_dirty(checkout):
    folder, commit = checkout
    (folder / "code.py").write_text("a = 2\n")
    assert git_tags(folder / "code.py") == {
        "git_commit": commit,
        "git_dirty": "true",
        "mlflow.source.git.commit": commit,
    }


def test_a_package_installed_inside_someone_elses_checkout_has_no_commit(checkout):
    folder, _ = checkout
    (folder / "site-packages").mkdir()
    (folder / "site-packages" / "code.py").write_text("")
    assert git_tags(folder / "site-packages" / "code.py") == {}


def test_no_git_no_tags(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert git_tags(checkout[0] / "code.py") == {}


def test_tags_are_what_runs_are_filtered_by():
    tags = provenance_tags()
    assert shlex.split(tags["command"]) == sys.orig_argv
    assert set(tags) <= {"command", "git_commit", "git_dirty"} | {name for name in tags if name.startswith("mlflow.")}


def test_the_file_has_the_versions_too():
    values, tags = provenance(), provenance_tags()
    assert values["command"] == tags["command"]
    assert values.get("git_commit") == tags.get("git_commit")
    assert {"promptfleet", "python", "torch", "mlflow"} <= set(values["versions"])
    assert values["versions"]["torch"] == metadata.version("torch")
    assert not any(name.startswith("mlflow.") for name in values)
