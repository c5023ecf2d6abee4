"""One federation as a user runs it."""

import json
import re
import subprocess
import sys

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
