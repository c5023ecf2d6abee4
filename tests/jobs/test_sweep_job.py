"""The main job as a user runs it, also when it is interrupted, and when its power goes out."""

import json
import os
import signal
import sqlite3
import time
from pathlib import Path

import optuna
import pytest
from mlflow import MlflowClient

from tests.jobs.job import Job

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]
SPACE = """
trials: 5
startup_trials: 2
grace_rounds: 1
federation: {clients: 3, rounds: 3, local_epochs: 1}
space:
  experts: {int: [0, 2]}
  gating_temperature: {float: [0.02, 1.0], log: true}
  prompt_length: {choice: [4, 8]}
"""


def rows(folder: Path, name: str, results: str = "results") -> list:
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder}/{results}/sweeps/{name}/study.db")
    study = optuna.load_study(study_name=name, storage=storage)
    return [(t.number, t.state.name, t.params, t.value, t.intermediate_values) for t in study.trials]


def hashes(folder: Path, name: str, results: str = "results") -> dict[str, str]:
    files = (folder / results / "sweeps" / name / "trials").glob("*/result.json")
    return {path.parent.name: json.loads(path.read_text())["state_sha256"] for path in files}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweeps")
    (folder / "small.yaml").write_text(SPACE)
    return folder


@pytest.fixture(scope="module")
def undisturbed(root, folder):
    job = Job(root, folder, "tune.py", "--search", "small.yaml")
    assert job.wait() == 0, job.text()
    job.wait_until_gone(20)
    return job


def test_it_says_what_came_out(undisturbed, folder):
    text = undisturbed.text()
    for part in ("best of", "validation accuracy", "test accuracy", "zero-shot CLIP", "results:", "=sweep-small"):
        assert part in text
    assert "Traceback" not in text
    assert text.count(" starts ") == 5
    done = rows(folder, "small")
    assert [row[1] for row in done].count("COMPLETE") >= 1
    assert len(done) == 5
    assert {row[1] for row in done} <= {"COMPLETE", "PRUNED"}


def test_mlflow_has_the_sweep_and_its_trials(undisturbed, folder):
    client = MlflowClient(f"sqlite:///{folder}/results/mlflow.db")
    experiment = client.get_experiment_by_name("promptfleet").experiment_id
    (parent,) = client.search_runs([experiment], "tags.`promptfleet.key` = 'sweep/small'")
    trials = client.search_runs([experiment], f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    by_number = {int(run.data.tags["trial"]): run for run in trials}
    done = rows(folder, "small")
    assert sorted(by_number) == [row[0] for row in done]
    for number, state, params, value, values in done:
        run = by_number[number]
        assert run.info.status == {"COMPLETE": "FINISHED", "PRUNED": "KILLED"}[state]
        assert int(run.data.params["experts"]) == params["experts"]
        history = client.get_metric_history(run.info.run_id, "val/accuracy_mean")
        assert {entry.step: entry.value for entry in history} == values
        assert run.data.metrics["final/val_accuracy"] == value
        names = {item.path for item in client.list_artifacts(run.info.run_id)}
        assert names >= {"config.yaml", "result.json", "clients.json", "states", "figures"}
    figures = {item.path for item in client.list_artifacts(parent.info.run_id, "figures")}
    assert figures >= {"figures/history.png", "figures/slices.png"}


def assert_undisturbed(folder: Path, name: str, results: str = "results") -> None:
    """Fail unless a sweep has the trials of the undisturbed one, and each of their rounds once in MLflow."""
    assert rows(folder, name, results) == rows(folder, "small")
    assert hashes(folder, name, results) == hashes(folder, "small")
    client = MlflowClient(f"sqlite:///{folder}/{results}/mlflow.db")
    experiment = client.get_experiment_by_name("promptfleet").experiment_id
    (parent,) = client.search_runs([experiment], f"tags.`promptfleet.key` = 'sweep/{name}'")
    trials = client.search_runs([experiment], f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    assert len(trials) == 5
    for run in trials:
        steps = [entry.step for entry in client.get_metric_history(run.info.run_id, "val/accuracy_mean")]
        assert len(steps) == len(set(steps))


def killed_within(job: Job, moment: str) -> None:
    """Kill a job in the rounds of a trial."""
    job.wait_for(moment)
    time.sleep(1.0)  # into its rounds
    os.kill(job.process.pid, signal.SIGKILL)
    job.wait()


def test_killed_and_resumed_it_is_the_undisturbed_sweep(undisturbed, root, folder, ends_by_itself):
    job = Job(root, folder, "tune.py", "--search", "small.yaml", "--name", "killed")
    killed_within(job, "trial   0 starts")
    again = Job(root, folder, "tune.py", "--resume", "killed")
    assert again.wait() == 0, again.text()
    assert_undisturbed(folder, "killed")
    again.wait_until_gone(20)
    ends_by_itself(job)


def test_told_to_end_and_then_killed_it_is_resumed_from_an_address(
    undisturbed, root, folder, ends_by_itself, monkeypatch
):
    """SIGTERM acts like Ctrl-C, which a terminal is pressed in test_train_job, and leaves all in good order.

    After the kill the address is all that is left: the machine that resumes is another one.
    """
    place = ["--set", f"storage.path={(folder / 'home').as_uri()}"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "machine"))
    job = Job(root, folder, "tune.py", "--search", "small.yaml", "--name", "moved", *place)
    job.wait_for("trial   1 starts")
    os.kill(job.process.pid, signal.SIGTERM)
    assert job.wait() == 130
    assert "python jobs/tune.py --resume moved" in job.text()
    with sqlite3.connect(folder / "home/mlflow.db") as database:
        assert not database.execute("select name from runs where status = 'RUNNING'").fetchall()
    assert "Traceback" not in job.text()
    job.wait_until_gone(20)

    again = Job(root, folder, "tune.py", "--resume", "moved", *place)
    killed_within(again, "trial   3 starts")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "other-machine"))
    (folder / "home" / ".in-use.json").unlink()  # instead of waiting until it counts for nothing

    last = Job(root, folder, "tune.py", "--resume", "moved", *place)
    assert last.wait() == 0, last.text()
    assert last.text().count(" starts ") <= 2  # those that were done are kept
    assert_undisturbed(folder, "moved", "home")
    last.wait_until_gone(20)
    ends_by_itself(again)


def test_a_finished_sweep_resumed_has_nothing_to_do(undisturbed, root, folder):
    before = rows(folder, "small")
    job = Job(root, folder, "tune.py", "--resume", "small")
    assert job.wait() == 0, job.text()
    assert " starts " not in job.text()
    assert rows(folder, "small") == before
