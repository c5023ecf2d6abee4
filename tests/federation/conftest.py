"""A real federation on the digits that the tests of this folder share: features are encoded once per test run."""

import pytest

from promptfleet.federation.prepare import prepare
from promptfleet.federation.settings import federation_config


@pytest.fixture(scope="session")
def storage(tmp_path_factory):
    return str(tmp_path_factory.mktemp("storage"))


@pytest.fixture(scope="session")
def small_config(storage):
    """Three clients, two of which train in each of two short rounds."""

    def make(**values):
        common = {"clients": 3, "rounds": 2, "local_epochs": 1, "prompt_length": 4, "participation": 0.67}
        return federation_config({**common, "storage": {"path": storage}, **values})

    return make


@pytest.fixture(scope="session")
def prepared(small_config):
    return prepare(small_config())
