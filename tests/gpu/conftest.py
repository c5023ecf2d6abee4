"""Tests on a GPU. ``PROMPTFLEET_GPU_TESTS=cpu`` rehearses those that do not look at the card itself on the CPU."""

import os

import pytest
import torch

from promptfleet.federation.prepare import prepare
from promptfleet.federation.settings import federation_config


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The GPU, or the CPU in a rehearsal; without either the test is skipped."""
    name = os.environ.get("PROMPTFLEET_GPU_TESTS", "cuda")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device; PROMPTFLEET_GPU_TESTS=cpu rehearses on the CPU")
    return torch.device(name)


@pytest.fixture(scope="session")
def card(device) -> torch.device:
    """The GPU; a rehearsal skips the test, since it looks at the card itself."""
    if device.type != "cuda":
        pytest.skip("this looks at the card itself, so a rehearsal on the CPU shows nothing")
    return device


@pytest.fixture(scope="session")
def storage(tmp_path_factory):
    return str(tmp_path_factory.mktemp("storage"))


@pytest.fixture(scope="session")
def digits_config(device, storage):
    """Six clients on handwritten digits, three short rounds, on the device unless ``runtime`` says otherwise."""

    def make(*, runtime=None, **values):
        small = {"clients": 6, "rounds": 3, "local_epochs": 1, "prompt_length": 4, "participation": 0.67}
        runs = {"backend": "local", "device": device.type, **(runtime or {})}
        return federation_config({**small, "storage": {"path": storage}, "runtime": runs, **values})

    return make


@pytest.fixture(scope="session")
def prepared(digits_config):
    """Features encoded once for all tests."""
    return prepare(digits_config())
