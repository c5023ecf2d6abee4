"""One federation as a user runs it."""

import json
import re
import subprocess
import sys
import time

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SMALL = ["--set", "clients=3", "--set", "rounds=2", "--set", "local_epochs=1", "--set", "seed=7"]


def train(root, folder, *arguments):
    command = [sys.executable, str(root / "jobs" / "train.py"), *SMALL, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=500)


@pytest.mark.ray
def test_both_backends_write_the_same_result(root, tmp_path):
    results = {}
    for backend in ("ray", "local"):
        done = train(root, tmp_path, "--set", f"runtime.backend={backend}", "--out", f"out/{backend}")
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("round ") == 2
        assert re.search(r"^first result after \d+\.\d s$", done.stderr, re.M)
        assert "Traceback" not in done.stderr
        assert "test accuracy" in done.stdout
        assert re.search(r"look at it: .*mlflow ui .*  ->  http://127\.0\.0\.1:5000/#/experiments/1/runs", done.stdout)
        results[backend] = json.loads((tmp_path / "out" / backend / "result.json").read_text())
    ray, local = results["ray"], results["local"]
    assert ray["state_sha256"] == local["state_sha256"]
    assert ray["clients"] == local["clients"]
    assert (ray["seed"], ray["method"], ray["dataset"], len(ray["rounds"])) == (7, "pfedmoap", "digits", 2)
    assert ray["config"]["runtime"]["backend"] == "ray"


def test_a_config_file_is_overridden_by_the_command_line(root, tmp_path):
    (tmp_path / "mine.yaml").write_text("rounds: 1\nprompt_length: 4\nruntime: {backend: local}\n")
    done = train(root, tmp_path, "--config", "mine.yaml", "--set", "rounds=1", "--out", "out")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert (len(result["rounds"]), result["config"]["prompt_length"]) == (1, 4)


def test_killed_and_resumed_it_is_the_undisturbed_federation(root, tmp_path):
    """The driver is killed in the middle of a round; nothing is run twice, and MLflow has one run of it."""
    wanted = train(root, tmp_path, "--set", "runtime.backend=local", "--set", "rounds=4", "--out", "whole")
    assert wanted.returncode == 0, wanted.stderr
    command = [sys.executable, str(root / "jobs" / "train.py"), *SMALL, "--set", "rounds=4", "--set"]
    with (tmp_path / "log").open("w") as log:
        job = subprocess.Popen([*command, "runtime.backend=local", "--out", "killed"], cwd=tmp_path, stderr=log)
        while "round 2/4" not in (tmp_path / "log").read_text():
            assert job.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.05)
        job.kill()
        job.wait()
    again = train(root, tmp_path, "--set", "runtime.backend=local", "--out", "killed")
    assert (again.returncode, again.stdout) == (2, "")
    assert "holds a federation that was stopped after round" in again.stderr
    command = [sys.executable, str(root / "jobs" / "train.py"), "--resume", "killed"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=500)
    assert done.returncode == 0, done.stderr
    assert "round 1/4" not in done.stderr
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "killed")]
    assert results[0]["state_sha256"] == results[1]["state_sha256"]
    assert results[0]["clients"] == results[1]["clients"]
    assert [report["round"] for report in results[1]["rounds"]] == [1, 2, 3, 4]
