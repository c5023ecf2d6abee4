"""Shares of GPUs as Ray hands them out; no GPU is needed, since Ray only counts."""

import os
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_shares_never_exceed_a_gpu_and_who_has_none_sees_none(root, prepared, storage):
    del prepared  # what it encoded is in storage
    environment = os.environ | {"PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "tests.federation.pretended_gpus", storage]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert "21 client actors with resources.client.gpu=0.1 do not fit: there is room for 20 on 2 GPUs" in done.stdout
