"""Disks that refuse and paths that no disk takes: one line, exit status 2, and nothing left behind, in every job."""

import builtins
import errno
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from promptfleet.command_line import run
from tests.samples import write_dtd

SETTINGS = {"dataset": "dtd", "clients": 2, "rounds": 1, "experts": 1, "local_epochs": 1, "partition.kind": "iid"}
SMALL = [f"{key}={value}" for key, value in {**SETTINGS, "runtime.backend": "local"}.items()]
pytestmark = pytest.mark.slow
TRAIN, PARTITION = ("train.py", "--set", *SMALL), ("partition.py", "--set", *SMALL)
ENCODE = ("encode.py", "--set", *SMALL)
TUNE = ("tune.py", "--search", "space.yaml", "--set", *SMALL[:-1])
COMPARE = ("compare.py", "--methods", "coop", "--seeds", "0", "--set", "clients=2")
PRETRAIN = ("pretrain.py", "--steps", "1")
SPACE = "space: {prompt_lr: {float: [0.01, 0.1]}}\ntrials: 2\n"


@pytest.fixture(scope="module")
def prepared_folder(tmp_path_factory):
    """A dataset of 36 images, and what a federation leaves of it in storage.path."""
    from promptfleet import run_federation

    folder = tmp_path_factory.mktemp("prepared")
    write_dtd(folder / "data", per_part=4)
    values = {key: value for key, value in SETTINGS.items() if "." not in key}
    more = {"partition": {"kind": "iid"}, "runtime": {"backend": "local"}, "data": {"root": str(folder / "data")}}
    run_federation({**values, **more, "storage": {"path": str(folder / "results")}})
    return folder


@pytest.fixture
def here(prepared_folder, tmp_path):
    """The job's working folder: the dataset, encoded images in ``results``, and a file called ``file``."""
    shutil.copytree(prepared_folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "space.yaml").write_text(SPACE)
    return tmp_path


class Disk:
    """Everything below a folder refuses to be written with one number of an error."""

    def __init__(self, monkeypatch, folder: Path, number: int):
        self._folder, self._number = str(folder), number
        for module, name in ((builtins, "open"), (io, "open"), (os, "open"), (os, "mkdir")):
            monkeypatch.setattr(module, name, self._instead_of(getattr(module, name), name))

    def _has(self, path) -> bool:
        return not isinstance(path, int) and os.path.abspath(os.fspath(path)).startswith(self._folder)

    def _instead_of(self, real, name):
        def call(path, *arguments, **options):
            mode = arguments[0] if arguments else options.get("mode", "r")
            if isinstance(mode, int):
                writes = name == "mkdir" or mode & (os.O_WRONLY | os.O_RDWR)
            else:
                writes = set(mode) & set("wax+")
            if writes and self._has(path):
                raise OSError(self._number, os.strerror(self._number), os.fspath(path))
            return real(path, *arguments, **options)

        return call


def refused(outcome, *parts):
    status, out, err = outcome
    *log, line = err.splitlines()
    assert (status, out) == (2, ""), err
    assert not any(re.match(r"error|Traceback|\s", before) for before in log), err
    for part in parts:
        assert part in line


def everything(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


REFUSALS = [(errno.ENOSPC, "(No space left on device); free some space"), (errno.EROFS, "cannot be written (")]


@pytest.mark.parametrize(("number", "told"), REFUSALS)
@pytest.mark.parametrize("job", [TRAIN, PARTITION], ids=lambda job: job[0])
def test_a_disk_that_refuses_at_out(run_here, here, monkeypatch, number, told, job):
    (here / "disk").mkdir()
    Disk(monkeypatch, here / "disk", number)
    before = everything(here)
    refused(run_here(*job, "--out", "disk/new"), "disk/new", told)
    assert everything(here) == before


@pytest.mark.parametrize(("number", "told"), REFUSALS)
@pytest.mark.parametrize("job", [TRAIN, PARTITION, ENCODE], ids=lambda job: job[0])
def test_a_disk_that_refuses_at_storage_path(run_here, here, monkeypatch, number, told, job):
    (here / "disk").mkdir()
    Disk(monkeypatch, here / "disk", number)
    before = everything(here)
    refused(run_here(*job, "storage.path=disk/new"), "disk/new", told)
    assert everything(here) == before


@pytest.mark.parametrize(("number", "told"), REFUSALS)
def test_a_disk_that_refuses_text_features(run_here, here, monkeypatch, number, told):
    for text in (here / "results" / "features").glob("text-*"):
        text.unlink()
    Disk(monkeypatch, here / "results" / "features", number)
    before = everything(here)
    refused(run_here(*TRAIN, "--out", "mine"), "results/features/text-", told)
    assert everything(here) == before


ALL_REFUSE = {
    **dict.fromkeys(("file", "file/below"), "Not a directory); there is a file where"),
    "/proc/x": "Operation not supported); its file system cannot do this",  # though root has the permission
}


@pytest.mark.parametrize("job", [TRAIN, PARTITION, ENCODE, TUNE, COMPARE], ids=lambda job: job[0])
def test_a_place_that_is_none_for_storage(run_here, here, job):
    for place, why in ALL_REFUSE.items():
        refused(run_here(*job, f"storage.path={place}"), f"error: storage.path={place}: cannot be written ({why}")
    assert (here / "file").read_text() == "no folder"


@pytest.mark.parametrize("job", [TRAIN, PARTITION, COMPARE, PRETRAIN], ids=lambda job: job[0])
def test_a_place_that_is_none_for_out(run_here, here, job):
    for place, why in ALL_REFUSE.items():
        refused(run_here(*job, "--out", place), f"error: --out {place}: cannot be written ({why}")


def test_pretraining_refuses_out_before_it_imports_torch_and_ray(run_here, here, monkeypatch):
    monkeypatch.setitem(sys.modules, "promptfleet.pretraining", None)
    refused(run_here(*PRETRAIN, "--out", "file"), "error: --out file: cannot be written (Not a directory)")


def test_an_export_is_refused_before_the_study_is_opened(run_here, here, monkeypatch):
    sweep = here / "results" / "sweeps" / "mine"
    sweep.mkdir(parents=True)
    (sweep / "sweep.yaml").write_text("")
    Disk(monkeypatch, sweep, errno.EROFS)
    told = f"error: {sweep}: cannot be written (Read-only file system)"
    refused(run_here("tune.py", "--resume", "mine", "--export", "csv"), told)


LONG, DEEP = "ü" * 128, "a/" * 2500
PATHS = [
    pytest.param("a" * 5000, "has a name of 5000 bytes, should be at most 255", id="5,000 letters"),
    pytest.param(LONG, "has a name of 256 bytes, should be at most 255", id="256 bytes in 128 letters"),
    pytest.param(DEEP, "has 5000 bytes, should be at most 4095", id="2,500 folders"),
    pytest.param("a\0b", "should be a path", id="NUL"),
    pytest.param("a\udcff", "is not UTF-8", id="a byte that is no UTF-8"),
    pytest.param("a\ud800", "has characters that no name of a file can have", id="half a pair of surrogates"),
]


@pytest.mark.parametrize(("path", "told"), PATHS)
def test_a_path_that_no_disk_takes(run_here, here, path, told):
    before = everything(here)
    refused(run_here(*TRAIN, "--out", path), "--out", told)
    refused(run_here(*TRAIN, f"storage.path={path}"), "storage.path", told)
    refused(run_here(*PARTITION, "--out", path), "--out", told)
    refused(run_here(*TUNE, f"storage.path={path}"), "storage.path", told)
    refused(run_here("tune.py", "--resume", path), "--resume", "no sweep was begun yet")
    refused(run_here("compare.py", "--resume", path), "--resume", "no comparison was begun yet")
    assert everything(here) == before


@pytest.mark.parametrize("job", [TUNE, COMPARE], ids=lambda job: job[0])
def test_a_name_that_no_disk_takes(run_here, here, job):
    refused(run_here(*job, "--name", "a" * 300), "--name aaaa", "has 300 characters, should be at most 200")


@pytest.mark.parametrize(
    ("job", "option"),
    [(TRAIN, "--out"), (("train.py",), "--resume"), (TUNE, "--name"), (("tune.py",), "--resume"), (COMPARE, "--out")],
)
def test_an_empty_option_is_no_default(run_here, here, job, option):
    before = everything(here)
    refused(run_here(*job, option, ""), option)
    assert everything(here) == before


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "Full", "x/y"), "error: x/y: cannot be used (Full); free some space"),
        (PermissionError(errno.EACCES, "Denied", "x"), "error: x: cannot be used (Denied); change its permissions"),
        (FileNotFoundError(errno.ENOENT, "None", b"x"), "error: x: cannot be used (None); it is missing"),
        (OSError(errno.EMFILE, "Too many"), "error: a file: cannot be used (Too many); raise the limit"),
    ],
)
def test_whatever_else_a_disk_refuses_is_one_line(capsys, error, told):
    def main():
        raise error

    with pytest.raises(SystemExit) as caught:
        run(main)
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith(told)
    assert err.count("\n") == 1


@pytest.mark.parametrize("error", [ConnectionRefusedError(errno.ECONNREFUSED, "x"), TimeoutError("x"), OSError("x")])
def test_what_no_disk_says_keeps_its_traceback(error):
    def main():
        raise error

    with pytest.raises(type(error)):
        run(main)


@pytest.mark.parametrize("figures", [1, 100_000])
@pytest.mark.parametrize("buffered", ["", "1"])
def test_an_output_that_is_full_is_one_line(tmp_path, monkeypatch, buffered, figures):
    """Such as a log on a disk without space; nothing is left to fail when Python ends."""
    monkeypatch.setenv("PYTHONUNBUFFERED", buffered)
    code = f"from promptfleet.command_line import run; run(lambda: print('0' * {figures}))"
    command = [sys.executable, "-c", code]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 2
    assert done.stderr == (
        "error: standard output: cannot be written (No space left on device); "
        "free some space, or use a folder on another disk\n"
    )
