"""A federation tracked beside its rounds: what its job can say in the end."""

import json

import pytest

from promptfleet.tracking.background import track_federation
from promptfleet.tracking.store import TrackingStore
from tests.tracking.values import make_config, make_report, make_result

pytestmark = pytest.mark.usefixtures("no_figures")


def test_a_federation_that_is_tracked_says_where_to_look(own_store):
    config = make_config(storage={"path": str(own_store.path)}, prompt_lr=0.03)
    with track_federation(config) as tracked:
        tracked.after_round(make_report(1))
        tracked.finish(make_result(config))
    assert (tracked.ui_hint, tracked.untracked) == (own_store.ui_hint("federations"), None)
    run = own_store.find_run(config.fingerprint())
    assert run.name == "pfedmoap digits seed 0  K=2 clients=3 rounds=3 prompt_lr=0.03"
    tags = own_store._client.get_experiment_by_name("promptfleet").tags
    shown = json.loads(tags["mlflow.sharedViewState.federations"])
    assert {"params.`prompt_lr`", "metrics.`final/test_accuracy`"} <= set(shown["selectedColumns"])
    assert shown["searchFilter"] == "tags.`promptfleet.kind` = 'federation'"
    assert run.tags["promptfleet.kind"] == "federation"


def test_a_federation_that_is_not_tracked_says_why_once(tmp_path, caplog):
    (tmp_path / "mlflow.db").write_text("this is no database " * 100)
    with track_federation(make_config(storage={"path": str(tmp_path)})) as tracked:
        for index in (1, 2, 3):
            tracked.after_round(make_report(index))
        tracked.finish(make_result())
    assert tracked.ui_hint is None
    assert "mlflow.db is damaged (file is not a database)" in tracked.untracked
    assert len(caplog.records) == 1


def test_rounds_that_failed_do_not_matter_once_all_of_it_is_written(own_store, monkeypatch):
    config = make_config(storage={"path": str(own_store.path)}, seed=5)
    with track_federation(config) as tracked, monkeypatch.context() as patch:
        patch.setattr(TrackingStore, "open", lambda _: (_ for _ in ()).throw(OSError("not now")))
        tracked.after_round(make_report(1))
        tracked._writer.submit(patch.undo)
        tracked.finish(make_result(config))
    assert tracked.untracked is None
    assert own_store.find_run(config.fingerprint()).steps("val/accuracy_mean") == {1, 2, 3}
