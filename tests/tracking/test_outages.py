"""MLflow's real database taken away while a federation is being written."""

import time

import pytest

from promptfleet.tracking.federation_run import FederationRun
from promptfleet.tracking.store import TrackingStore
from promptfleet.tracking.writer import BackgroundWriter
from tests.tracking.values import make_config, make_report, make_result


@pytest.mark.slow
def test_a_database_that_is_gone_for_a_while_has_every_round_once(tmp_path, caplog):
    store = TrackingStore.open(tmp_path)
    run = FederationRun.start(store, make_config(), key="away", name="away")
    database, away = tmp_path / "mlflow.db", tmp_path / "elsewhere.db"
    with BackgroundWriter() as writer:
        database.rename(away)
        database.mkdir()  # nothing can be opened there, also not anew
        for number in (1, 2, 3):
            writer.submit(run.log_round, make_report(number))
        time.sleep(1.0)
        database.rmdir()
        away.rename(database)
        writer.submit(run.finish, make_result())
    assert "kept for later" in caplog.text  # it was an outage
    assert writer.failures == 0
    again = TrackingStore.open(tmp_path).find_run("away")
    client = again._client
    assert [entry.step for entry in client.get_metric_history(run.id, "val/accuracy_mean")] == [1, 2, 3]
    assert again.status == "FINISHED"
    assert {entry.path for entry in client.list_artifacts(run.id)} >= {"result.json", "states", "figures"}
