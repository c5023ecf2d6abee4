"""A real federation on the digits that tests share: features are encoded once per test run."""

import pytest


@pytest.fixture(scope="session")
def storage(tmp_path_factory):
    return str(tmp_path_factory.mktemp("storage"))


@pytest.fixture(scope="session")
def small_config(storage):
    """Three clients, two of which train in each of two short rounds."""
    from promptfleet.federation.settings import federation_config

    def make(**values):
        common = {"clients": 3, "rounds": 2, "local_epochs": 1, "prompt_length": 4, "participation": 0.67}
        return federation_config({**common, "storage": {"path": storage}, **values})

    return make


@pytest.fixture(scope="session")
def few_shot_config(small_config):
    """The same with four examples per class and client: two batches in a round, for tests that compare states."""
    return lambda **values: small_config(**{"partition": {"shots": 4}, **values})


@pytest.fixture(scope="session")
def prepared(small_config):
    from promptfleet.federation.prepare import prepare

    return prepare(small_config())
