"""A federation on the GPU against the CPU and against itself: packed or not, with Ray or not, killed and resumed."""

import json
import subprocess
import sys

import pytest

import promptfleet

pytestmark = pytest.mark.gpu

KILLED = 9

DIES_AFTER_ROUND_TWO = """
import json, os, sys
import promptfleet

def on_round(report):
    if report.round == 2:
        os.kill(os.getpid(), 9)

promptfleet.run_federation(json.loads(sys.argv[1]), folder=sys.argv[2], on_round=on_round)
"""


@pytest.fixture(scope="module")
def result(digits_config, prepared):
    """In this process, packed clients as one batch."""
    return promptfleet.run_federation(digits_config())


def experts_of(result):
    return [client.described.get("experts") for client in result.clients]


def test_chooses_the_experts_and_reaches_the_accuracy_of_the_cpu(digits_config, result):
    on_cpu = promptfleet.run_federation(digits_config(runtime={"device": "cpu"}))
    assert experts_of(result) == experts_of(on_cpu)
    assert any(experts_of(result))
    assert abs(result.test_accuracy - on_cpu.test_accuracy) <= 0.005


@pytest.mark.parametrize("runtime", [{}, {"batch_steps": False}], ids=["again", "one client after the other"])
def test_gives_the_same_bits_in_this_process(digits_config, result, runtime):
    assert promptfleet.run_federation(digits_config(runtime=runtime)).state_sha256 == result.state_sha256


@pytest.mark.ray
@pytest.mark.parametrize("clients_per_actor", [1, 3])
def test_gives_the_same_bits_on_ray(digits_config, result, clients_per_actor):
    runtime = {"backend": "ray", "clients_per_actor": clients_per_actor}
    found = promptfleet.run_federation(digits_config(runtime=runtime))
    assert found.state_sha256 == result.state_sha256
    assert [one.test_accuracy for one in found.clients] == [one.test_accuracy for one in result.clients]


@pytest.mark.slow
def test_gives_the_same_bits_killed_and_resumed(digits_config, result, tmp_path):
    config, folder = digits_config(), tmp_path / "run"
    command = [sys.executable, "-c", DIES_AFTER_ROUND_TWO, json.dumps(config.to_dict()), str(folder)]
    killed = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert killed.returncode == -KILLED, killed.stderr
    assert len(json.loads((folder / "result.json").read_text())["rounds"]) <= 2
    assert promptfleet.run_federation(config, folder=folder).state_sha256 == result.state_sha256


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_ends_near_float32(digits_config, result, precision):
    found = promptfleet.run_federation(digits_config(precision=precision))
    assert found.server["context"].dtype == result.server["context"].dtype
    assert abs(found.test_accuracy - result.test_accuracy) <= 0.02
