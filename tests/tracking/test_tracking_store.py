"""The embedded store: opening it, finding runs in it, and what a run holds."""

import contextlib
import json
import shlex
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from sqlalchemy.engine import make_url

import promptfleet.tracking.store as store_module
from promptfleet.atomic_files import locked
from promptfleet.databases import sqlite_address
from promptfleet.outages import is_outage
from promptfleet.tracking.errors import TrackingError
from promptfleet.tracking.store import TrackingStore
from promptfleet.tracking.views import federations_view, trials_view


def test_everything_lies_under_the_storage_path(store, key, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    again = TrackingStore.open(store.path)
    run = again.find_or_create_run(key, "a run")
    run.log_text("hello", "notes/hello.txt")
    (file,) = (store.path / "mlartifacts").rglob("hello.txt")
    assert run.id in file.parts
    assert file.read_text() == "hello"
    assert list(tmp_path.iterdir()) == []


def test_the_store_is_sqlite_at_an_absolute_path(store):
    assert make_url(store.uri).database == f"{store.path}/mlflow.db"
    assert (store.path / "mlflow.db").read_bytes().startswith(b"SQLite format 3")


def test_a_run_is_found_again_by_its_key(store, key):
    first = store.find_or_create_run(key, "first", tags={"colour": "red"})
    first.set_status("KILLED")
    second = store.find_or_create_run(key, "second", tags={"colour": "blue"})
    assert (first.is_new, second.is_new) == (True, False)
    assert second.id == first.id
    assert second.status == "RUNNING"
    assert (second.name, second.tags["colour"]) == ("first", "blue")
    assert store.find_or_create_run(key + "/other", "other").id != first.id


def test_looking_for_a_run_changes_nothing(store, key):
    assert store.find_run(key) is None
    store.find_or_create_run(key, "a run").set_status("FINISHED")
    assert store.find_run(key).status == "FINISHED"


def test_a_deleted_run_is_not_continued(store, key, client):
    first = store.find_or_create_run(key, "a run")
    client.delete_run(first.id)
    assert store.find_or_create_run(key, "a run").id != first.id


def test_nested_runs_are_found_by_their_parent(store, key, client):
    parent = store.find_or_create_run(key, "parent")
    children = {store.find_or_create_run(f"{key}/{number}", "child", parent=parent.id).id for number in range(3)}
    assert {child.id for child in store.running_children(parent.id)} == children
    experiment = client.get_experiment_by_name("promptfleet").experiment_id
    found = client.search_runs([experiment], f"tags.mlflow.parentRunId = '{parent.id}'")
    assert {run.info.run_id for run in found} == children


@pytest.mark.parametrize("odd", ["it's", 'say "so"', "100% / ü"])
def test_keys_may_hold_odd_characters(store, key, odd):
    run = store.find_or_create_run(f"{key} {odd}", "odd")
    assert store.find_run(f"{key} {odd}").id == run.id


def test_a_key_with_both_quotes_is_refused(store):
    with pytest.raises(ValueError, match="may hold ' or \" but not both"):
        store.find_run("""it's "so" """)


def test_params_keep_their_first_value(store, key):
    run = store.find_or_create_run(key, "a run")
    run.log_params({f"p{number}": number for number in range(150)})  # more than MLflow takes at once
    run.log_params({"p0": 0, "shuffle": True, "kind": "iid", "choices": [1, 2]})
    assert len(run.params) == 153
    assert {name: run.params[name] for name in ("p149", "shuffle", "kind", "choices")} == {
        "p149": "149",
        "shuffle": "true",
        "kind": "iid",
        "choices": "[1, 2]",
    }
    with pytest.raises(TrackingError, match=r"'a run' was started with p0=0 and cannot be continued with p0=1; start"):
        run.log_params({"p0": 1})


def test_names_that_are_no_utf_8_are_written_escaped(store, key, fetch):
    run = store.find_or_create_run(key, "caf\udce9")
    for _ in range(2):  # also where it is continued
        run.log_params({"data.folder": "caf\udce9"})
    run.set_tags({"reason": "caf\udce9\nline"})
    run.log_text("caf\udce9", "text.txt")
    assert (run.name, run.params["data.folder"], run.tags["reason"]) == (r"caf\xe9", r"caf\xe9", "caf\\xe9\nline")
    assert Path(fetch(run.id, "text.txt")).read_text() == r"caf\xe9"


def test_a_table_written_twice_is_there_once(store, key, table):
    run = store.find_or_create_run(key, "a run")
    run.log_table([{"a": 1, "b": 2.5}, {"a": 3, "c": "x"}], "rows.json")
    run.log_table([{"a": 1, "b": 2.5}, {"a": 4, "c": "y"}], "rows.json")
    rows = table(run.id, "rows.json")
    assert list(rows.columns) == ["a", "b", "c"]
    assert rows["a"].tolist() == [1, 4]
    assert rows["c"].tolist()[1] == "y"
    assert run.tags["mlflow.loggedArtifacts"].count("rows.json") == 1


def test_real_numbers_in_tables_are_rounded(store, key, table):
    run = store.find_or_create_run(key, "a run")
    run.log_table([{"a": 0.123456, "b": 123456, "c": "0.123456"}, {"a": 1234567.0, "b": 1, "c": None}], "rows.json")
    rows = table(run.id, "rows.json")
    assert rows["a"].tolist() == pytest.approx([0.1235, 1235000.0], rel=1e-9)
    assert rows["b"].tolist() == [123456, 1], "whole numbers stay"


def test_the_experiment_says_what_it_is(store, client):
    found = client.get_experiment_by_name("promptfleet")
    assert found.tags["mlflow.experimentKind"] == "custom_model_development"
    assert "\n" not in found.tags["mlflow.note.content"]


def test_opening_an_older_store_adds_what_is_missing_and_keeps_the_users_words(store, client, monkeypatch):
    experiment = client.get_experiment_by_name("promptfleet").experiment_id
    before = client.get_experiment(experiment).tags["mlflow.note.content"]
    client.delete_experiment_tag(experiment, "mlflow.experimentKind")
    client.set_experiment_tag(experiment, "mlflow.note.content", "my words")
    TrackingStore.open(store.path)
    tags = client.get_experiment(experiment).tags
    assert (tags["mlflow.experimentKind"], tags["mlflow.note.content"]) == ("custom_model_development", "my words")
    client.set_experiment_tag(experiment, "mlflow.note.content", before)


def test_a_store_that_lost_its_artifacts_says_so(store, key, tmp_path):
    store.find_or_create_run(key, "one").log_text("text", "a.txt")
    (tmp_path / "moved").mkdir()
    shutil.copy(store.path / "mlflow.db", tmp_path / "moved")
    with pytest.raises(TrackingError, match=r"moved/mlflow\.db keeps its artifacts in file://.*Move it back, or set"):
        TrackingStore.open(tmp_path / "moved")


def test_a_store_that_was_moved_with_its_artifacts_goes_on_there(key, tmp_path):
    before = TrackingStore.open(tmp_path / "before")
    before.find_or_create_run(f"{key}/0", "one").log_text("text", "a.txt")
    before.find_or_create_run(key, "two")
    (tmp_path / "before").rename(tmp_path / "after")
    TrackingStore.open(tmp_path / "after").find_run(key).log_text("more", "b.txt")
    assert not (tmp_path / "before").exists()
    assert sorted(path.name for path in (tmp_path / "after").rglob("*.txt")) == ["a.txt", "b.txt"]
    uris = [run.info.artifact_uri for run in MlflowClient(f"sqlite:///{tmp_path}/after/mlflow.db").search_runs(["1"])]
    assert all(uri.startswith((tmp_path / "after/mlartifacts").as_uri()) for uri in uris)
    assert len(uris) == 2


def test_a_damaged_store_says_so(tmp_path):
    (tmp_path / "mlflow.db").write_text("this is no database " * 100)
    with pytest.raises(TrackingError, match=r"mlflow\.db is damaged \(file is not a database\); move it away"):
        TrackingStore.open(tmp_path)


def test_a_storage_path_that_is_a_file_says_so(tmp_path):
    (tmp_path / "results").write_text("")
    with pytest.raises(TrackingError, match=r"results/mlflow\.db cannot be used for tracking: .*File exists"):
        TrackingStore.open(tmp_path / "results")


def test_a_store_of_another_mlflow_says_so_and_what_to_do(store, tmp_path):
    shutil.copy(store.path / "mlflow.db", tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database, database:
        database.execute("update alembic_version set version_num = 'of tomorrow'")
    with pytest.raises(TrackingError, match=r"mlflow\.db was written by another version of MLflow than") as caught:
        TrackingStore.open(tmp_path)
    assert f"db upgrade {sqlite_address(tmp_path / 'mlflow.db')}, or" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_lock_that_another_keeps_is_logged_once_and_waited_for(store, monkeypatch, caplog):
    monkeypatch.setattr(store_module, "SLOW_S", 0.01)
    monkeypatch.setattr(store_module, "PATIENCE_S", 0.02)
    with (
        locked(store.path / "mlflow.lock"),
        pytest.raises(TrackingError, match=r"another process holds .*mlflow\.lock") as caught,
    ):
        TrackingStore.open(store.path)
    assert is_outage(caught.value), "it may be given back, so what is to be written is kept"
    assert [record.getMessage().split(" holds ")[0] for record in caplog.records] == ["tracking: another process"]


def test_an_experiment_deleted_meanwhile_is_restored_with_the_runs_it_had(key, own_store, caplog):
    mine = MlflowClient(own_store.uri)
    replaced = own_store.find_or_create_run(key, "a run")
    mine.delete_run(replaced.id)
    run = own_store.find_or_create_run(key, "a run")
    mine.delete_experiment(mine.get_experiment_by_name("promptfleet").experiment_id)
    assert run.is_deleted
    assert own_store.find_or_create_run(key, "a run").id == run.id
    assert (run.is_deleted, replaced.is_deleted) == (False, True)
    assert "the experiment promptfleet was deleted in MLflow; it is restored" in caplog.text


def test_children_move_to_another_parent(store, key, client):
    before, after = (store.find_or_create_run(f"{key}/{name}", name) for name in ("before", "after"))
    child = store.find_or_create_run(f"{key}/child", "child", parent=before.id)
    store.adopt_children(before.id, after.id)
    assert client.get_run(child.id).data.tags["mlflow.parentRunId"] == after.id


def test_ui_command_can_be_pasted_anywhere(store, root, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert shlex.split(store.ui_command) == [sys.executable, str(root / "jobs/ui.py"), str(store.path)]


def test_ui_command_is_short_for_the_results_folder_of_the_checkout(store, monkeypatch, tmp_path):
    monkeypatch.setattr(store_module, "_REPOSITORY", tmp_path)
    here = TrackingStore(tmp_path / "results", client=None, experiment_id="1")
    assert here.ui_command != "make ui"
    monkeypatch.chdir(tmp_path)
    assert here.ui_command == "make ui"


def test_the_address_leads_to_a_view(store, client):
    experiment = client.get_experiment_by_name("promptfleet").experiment_id
    page = f"#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey=sweep-gating"
    assert store.ui_address("sweep-gating", port=5077) == f"http://127.0.0.1:5077/{page}"
    assert store.ui_hint("sweep-gating") == f"{store.ui_command}  ->  http://127.0.0.1:5000/{page}"


def test_the_repository_is_the_checkout(root):
    assert root == store_module._REPOSITORY


def test_views_are_listed_newest_first_without_those_of_deleted_runs_and_all_runs_last(own_store, key):
    parents = [own_store.find_or_create_run(f"{key}/{number}", "a sweep") for number in range(3)]
    for number in (0, 1, 2, 0):
        own_store.save_view(trials_view(f"sweep-{number}", parents[number].id, ["experts"]))
    assert own_store.newest_views(2) == ["sweep-0", "sweep-2", "runs"]
    MlflowClient(own_store.uri).delete_run(parents[0].id)
    assert own_store.newest_views(2) == ["sweep-2", "sweep-1", "runs"]


def test_a_view_widened_keeps_its_columns(own_store):
    own_store.widen_view("federations", federations_view, ["rounds"])
    own_store.widen_view("federations", federations_view, ["clients", "rounds"])
    client = MlflowClient(own_store.uri)
    tags = client.get_experiment_by_name("promptfleet").tags
    columns = json.loads(tags["mlflow.sharedViewState.federations"])["selectedColumns"]
    assert columns[-3:] == ["params.`rounds`", "params.`clients`", "tags.`promptfleet.state`"]


@pytest.mark.slow
def test_two_processes_may_create_the_store_at_once(tmp_path):
    """One of them also finds what a process left that was killed while creating it."""
    folder = tmp_path / "a%41 b?mode=ro 100% #x {y} ü;&@:"
    folder.mkdir()
    (folder / "mlflow.db.unfinished").write_text("half a database")
    code = (
        "import sys; from promptfleet.tracking.store import TrackingStore; "
        "run = TrackingStore.open(sys.argv[1]).find_or_create_run('same key', 'a run'); "
        "run.log_text('hello', 'hello.txt'); print(run.id)"
    )
    arguments = [sys.executable, "-c", code, str(folder)]
    both = [
        subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=250) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0], "both see one run"
    waiting = f"tracking: another process holds {folder}/mlflow.lock; waiting for it\n"  # on a slow machine
    assert {written for _, written in outputs} <= {"", waiting}
    assert sorted(path.name for path in folder.iterdir()) == ["mlartifacts", "mlflow.db"]
    assert [path.read_text() for path in folder.rglob("hello.txt")] == ["hello"]
    assert list(tmp_path.iterdir()) == [folder], "nothing begins in a folder of another name"


@pytest.mark.slow
def test_importing_tracking_loads_neither_mlflow_nor_matplotlib():
    code = (
        "import sys, promptfleet.tracking.sweep_run, promptfleet.tracking.writer; "
        "print([name for name in ('mlflow', 'matplotlib', 'ray', 'optuna') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr
