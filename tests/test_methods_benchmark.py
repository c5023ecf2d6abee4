"""The benchmark of the methods: bytes, parameters and times of a few."""

import json
import subprocess
import sys

import pytest

PROMPT = 4 * 128  # tokens and width of glyph-clip


@pytest.mark.slow
def test_a_row_per_method_has_its_cost(root):
    command = [
        sys.executable,
        str(root / "benchmarks" / "methods.py"),
        "--methods",
        "zero_shot",
        "promptfl",
        "promptfolio",
    ]
    command += ["--clients", "3", "--rounds", "2", "--threads", "1", "--set", "prompt_length=4", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    zero_shot, promptfl, promptfolio = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert [zero_shot[key] for key in ("down_bytes", "up_bytes", "trained_parameters")] == [0, 0, 0]
    for row, prompts in ((promptfl, 1), (promptfolio, 2)):
        assert row["down_bytes"] == row["up_bytes"] == 4 * PROMPT
        assert row["trained_parameters"] == prompts * PROMPT
        assert row["round_s"] > row["train_s"] > 0
        assert row["cpu_s"] > 0
        assert row["peak_mib"] > 0
    assert promptfl["times_promptfl"] == 1.0
