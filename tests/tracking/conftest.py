"""One store for all tests of tracking (making its schema takes seconds), and a way to look into it from outside."""

import itertools
import shutil
from pathlib import Path

import pytest

from promptfleet.tracking import federation_run
from promptfleet.tracking.store import TrackingStore


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    return TrackingStore.open(tmp_path_factory.mktemp("tracking") / "results")


@pytest.fixture
def own_store(store, tmp_path):
    """A store of this test alone, for what others would notice."""
    shutil.copy(store.path / "mlflow.db", tmp_path)
    (tmp_path / "mlartifacts").mkdir()  # as if it had been moved there with its artifacts
    return TrackingStore.open(tmp_path)


@pytest.fixture(scope="session")
def _numbers():
    return itertools.count()


@pytest.fixture
def key(_numbers):
    """A key that no other test uses."""
    return f"test/{next(_numbers)}"


@pytest.fixture(scope="session")
def client(store):
    """MLflow's own client on the store, as a user's notebook would open it."""
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=store.uri)


@pytest.fixture
def no_figures(monkeypatch):
    """Federations have no figures, for tests of everything else: drawing them takes most of a second."""
    monkeypatch.setattr(federation_run, "federation_figures", lambda result: [])


@pytest.fixture
def steps(client):
    """``steps(run_id, metric)``: the steps at which a metric was logged, in the order of logging."""
    return lambda run_id, metric: [entry.step for entry in client.get_metric_history(run_id, metric)]


@pytest.fixture
def artifacts(client):
    """``artifacts(run_id)``: the names of all files of a run."""

    def names(run_id, folder=None):
        for entry in client.list_artifacts(run_id, folder):
            if entry.is_dir:
                yield from names(run_id, entry.path)
            else:
                yield entry.path

    return lambda run_id: sorted(names(run_id))


@pytest.fixture
def table(client, store, monkeypatch):
    """``table(run_id, file)``: a table artifact as a pandas DataFrame, the way MLflow's own users load it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)  # load_table asks the environment, not its client
    return lambda run_id, file: client.load_table(client.get_run(run_id).info.experiment_id, file, run_ids=[run_id])


@pytest.fixture
def fetch(client, tmp_path):
    """``fetch(run_id, file)``: the path of a downloaded artifact."""
    return lambda run_id, file: Path(client.download_artifacts(run_id, file, str(tmp_path)))
