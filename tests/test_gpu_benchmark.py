"""The rehearsal of the GPU benchmark: every part runs on the CPU, and what is missing or cut off is reported."""

import importlib.util
import json
import subprocess
import sys
from argparse import Namespace

import pytest

PARTS = ("card", "encoder", "federation", "local_round", "precision", "actors", "images")


@pytest.fixture
def gpu(root):
    """The benchmark's own module."""
    spec = importlib.util.spec_from_file_location("gpu_benchmark", root / "benchmarks" / "gpu.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_every_part_runs_on_the_cpu(root, tmp_path):
    command = [sys.executable, str(root / "benchmarks" / "gpu.py"), "--device", "cpu", "--small", "--out", "out"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=850)
    assert done.returncode == 0, done.stderr
    found = {name: json.loads((tmp_path / "out" / f"{name}.json").read_text()) for name in PARTS}
    assert all(part["complete"] and part["rows"] for part in found.values())

    assert {row["dtype"] for row in found["card"]["rows"] if row["what"] == "matrix product"} == {
        "float32",
        "bfloat16",
        "float16",
    }
    for row in found["encoder"]["rows"]:
        exact = row["dtype"] == "float32"
        assert row["feature_difference"] < (1e-6 if exact else 0.05)
        assert row["gradient_difference"] < (1e-5 if exact else 0.1)
        assert row["ratio"] == pytest.approx(row["plain_s"] / row["fast_s"])
    (local,) = found["local_round"]["rows"]
    assert local["prompt_difference"] < 1e-4 < local["prompt_change"]
    rounds = [row for row in found["federation"]["rows"] if "round" in row]
    assert [row["round"] for row in rounds] == [1, 2]
    assert all(
        sum(row[stage] for stage in ("select", "train", "aggregate", "evaluate")) <= row["seconds"] for row in rounds
    )
    assert any(row.get("what") == "profile" and row.get("name") for row in found["federation"]["rows"])
    assert {row["precision"] for row in found["precision"]["rows"]} == {"float32", "bfloat16", "float16"}
    assert all(abs(row["points_from_float32"]) < 10 for row in found["precision"]["rows"])
    assert [(row["clients"], row["actors"]) for row in found["actors"]["rows"]] == [(1, 1), (2, 2), (2, 1)]
    assert found["images"]["rows"][0]["pipeline_images_per_s"] > 0


@pytest.mark.slow
def test_a_part_whose_module_is_missing_is_left_out(gpu, tmp_path, monkeypatch):
    (tmp_path / "open_clip.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'open_clip'\", name='open_clip')"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = gpu.run_part("local_round", Namespace(device="cpu", small=True, out=tmp_path))
    assert found["left_out"] == "open_clip is not installed"
    assert "stopped" not in found


def test_a_part_that_takes_too_long_keeps_its_rows(gpu, tmp_path, monkeypatch):
    (tmp_path / "slow_part.py").write_text(
        "import sys, time\n"
        'open(sys.argv[sys.argv.index(\'--out\') + 1], \'w\').write(\'{"part": "slow", "rows": [{"seconds": 1}]}\')\n'
        "time.sleep(60)\n"
    )
    monkeypatch.setattr(gpu, "LIMITS_S", {"slow": 2.0})
    monkeypatch.setattr(gpu, "MODULE", "slow_part")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = gpu.run_part("slow", Namespace(device="cpu", small=False, out=tmp_path))
    assert found["rows"] == [{"seconds": 1}]
    assert found["stopped"] == "its 2.0 s were up"


def test_all_parts_together_take_at_most_eight_minutes(gpu):
    assert set(gpu.LIMITS_S) == set(PARTS)
    assert sum(gpu.LIMITS_S.values()) <= 480
