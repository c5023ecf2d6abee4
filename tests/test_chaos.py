"""A small storm: the script that users run, with few shots, at processes that the jobs themselves replace.

docs/reliability.md has the figures of large storms, at drivers, fork servers and Ray's own processes as well.
"""

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_sweep_under_fire_equals_the_undisturbed_one(root, tmp_path):
    command = [sys.executable, str(root / "benchmarks" / "chaos.py"), "--kills", "3", "--trials", "2", "--json"]
    command += ["--jobs", "sweep", "--processes", "client", "server", "trial", "--pause", "0.3", "2.0"]
    done = subprocess.run([*command, "--seed", "3"], capture_output=True, text=True, cwd=tmp_path, timeout=850)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["kills"] >= 1
    assert sum(row["shots"] for row in found["rows"]) == found["kills"] == done.stderr.count(" to ")
    assert found["equal"] == found["federations"] == 2 * found["jobs"]
    assert found["studies_equal"] == found["jobs"]
    assert found["rounds_lost_or_doubled"] == found["rounds_lost_or_doubled_in_mlflow"] == found["orphans"] == 0
