"""One federation as a user runs it."""

import json
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.jobs.job import Job, TerminalJob

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SMALL = ["--set", "clients=3", "--set", "rounds=2", "--set", "local_epochs=1", "--set", "seed=7"]


def train(root, folder, *arguments):
    command = [sys.executable, str(root / "jobs" / "train.py"), *SMALL, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=500)


@pytest.mark.ray
def test_both_backends_write_the_same_result_of_a_file_that_the_command_line_overrides(root, tmp_path):
    (tmp_path / "mine.yaml").write_text("rounds: 1\nprompt_length: 4\nruntime: {backend: local}\n")
    results = {}
    for backend in ("ray", "local"):
        place = ["--set", f"runtime.backend={backend}", "--out", f"out/{backend}"]
        done = train(root, tmp_path, "--config", "mine.yaml", *place)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("round ") == 2
        meant = ("round ", "encod", "tracking: waiting")
        assert all(line.startswith(meant) for line in done.stderr.splitlines()), "nothing for developers"
        assert "Traceback" not in done.stderr
        assert "test accuracy" in done.stdout
        assert re.search(r"look at it: .*ui.py .*  ->  http://127\.0\.0\.1:5000/\S+=federations$", done.stdout, re.M)
        results[backend] = json.loads((tmp_path / "out" / backend / "result.json").read_text())
    ray, local = results["ray"], results["local"]
    assert ray["state_sha256"] == local["state_sha256"]
    assert ray["clients"] == local["clients"]
    assert (ray["seed"], ray["method"], ray["dataset"], len(ray["rounds"])) == (7, "pfedmoap", "digits", 2)
    assert (ray["config"]["runtime"]["backend"], ray["config"]["prompt_length"]) == ("ray", 4)


@pytest.fixture(scope="module")
def undisturbed(root, tmp_path_factory):
    """The result of four rounds in one process."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = train(root, folder, "--set", "runtime.backend=local", "--set", "rounds=4", "--out", "whole")
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "whole" / "result.json").read_text())


def resumed(root, folder, undisturbed):
    """Resume what was killed after its first round, and find all as it was to be."""
    command = [sys.executable, str(root / "jobs" / "train.py"), "--resume", "killed"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=500)
    assert done.returncode == 0, done.stderr
    assert "round 1/4" not in done.stderr
    result = json.loads((folder / "killed" / "result.json").read_text())
    assert result["state_sha256"] == undisturbed["state_sha256"]
    assert result["clients"] == undisturbed["clients"]
    assert [report["round"] for report in result["rounds"]] == [1, 2, 3, 4]


def test_killed_and_resumed_it_is_the_undisturbed_federation(root, tmp_path, undisturbed, run_here):
    """The driver is killed in the middle of a round, and nothing is run twice."""
    job = Job(root, tmp_path, "train.py", *SMALL, "--set=rounds=4", "--set=runtime.backend=local", "--out", "killed")
    job.wait_for("round 2/4")
    job.process.kill()
    job.process.wait()
    status, output, errors = run_here(
        "train.py", *SMALL, "--set=rounds=4", "--set=runtime.backend=local", "--out", "killed"
    )
    assert (status, output) == (2, "")
    assert "holds a federation that was stopped after round" in errors
    resumed(root, tmp_path, undisturbed)


def test_an_outage_of_an_address_and_the_loss_of_the_machine_cost_nothing(
    root, tmp_path, undisturbed, monkeypatch, run_here
):
    """The address is a folder whose place something else takes for a while; then the driver is killed."""
    there, name = tmp_path / "there", "federations/mine"
    place = ["--set", f"storage.path={there.as_uri()}"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "machine"))
    settings = [*SMALL, "--set=rounds=4", "--set=runtime.backend=local"]
    job = Job(root, tmp_path, "train.py", *settings, *place, "--out", name)
    job.wait_for("round 1/4")
    there.rename(tmp_path / "away")
    there.write_text("no folder")
    job.wait_for("cannot be used")
    there.unlink()
    (tmp_path / "away").rename(there)
    job.wait_for("can be used again")
    job.process.kill()
    job.process.wait()

    (there / ".in-use.json").unlink()  # instead of waiting until it counts for nothing
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other-machine"))
    status, output, errors = run_here("train.py", *SMALL, "--set=rounds=4", *place, "--out", name)
    assert (status, output) == (2, "")
    assert f"resume it with --resume {name}" in errors
    status, output, errors = run_here("train.py", "--resume", name, *place)
    assert status == 0, errors
    assert "round 1/4" not in errors
    assert f"result: {there.as_uri()}/{name}/result.json" in output
    result = json.loads((there / name / "result.json").read_text())
    assert result["state_sha256"] == undisturbed["state_sha256"]
    assert result["clients"] == undisturbed["clients"]
    assert not (tmp_path / "results").exists()


@pytest.mark.ray
def test_without_its_ray_session_it_ends_at_once_and_can_be_gone_on_with(root, tmp_path, undisturbed, ends_by_itself):
    job = Job(root, tmp_path, "train.py", *SMALL, "--set=rounds=4", "--out", "killed")
    job.wait_for("round 2/4")
    job.kill("raylet", "gcs_server")
    started = time.monotonic()
    assert job.wait() == 1
    assert time.monotonic() - started < 30  # Ray itself would take a minute
    assert "error: the Ray session has ended" in job.text()
    assert job.text().endswith("resume with: python jobs/train.py --resume killed\n")
    resumed(root, tmp_path, undisturbed)
    ends_by_itself(job)


LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


@pytest.mark.ray
def test_on_a_terminal_it_listens_on_loopback_alone_and_ctrl_c_ends_it_in_good_order(root, tmp_path, monkeypatch):
    """The terminal signals the whole foreground group, so Ray and the fork server as well, if they were in it."""
    place = Path(tempfile.mkdtemp(dir="/tmp"))  # a path that is short enough for sockets
    monkeypatch.setenv("RAY_TMPDIR", str(place))
    job = TerminalJob(root, tmp_path, "train.py", *SMALL, "--set=rounds=500", "--out", "stopped")
    job.wait_for("round 1/500")
    assert job.listening() <= LOOPBACK
    assert len(list(place.iterdir())) == 1
    job.press_ctrl_c()
    assert job.wait() == 130
    job.wait_until_gone(30)
    assert "Traceback" not in job.text()
    assert job.text().endswith("interrupted; resume with: python jobs/train.py --resume stopped\n")
    place.rmdir()  # nothing is left there
    with sqlite3.connect(tmp_path / "results/mlflow.db") as database:
        assert database.execute("select status from runs").fetchall() == [("KILLED",)]
