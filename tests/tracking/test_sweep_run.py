"""A sweep in MLflow: the parent run and its trials."""

import json
from dataclasses import replace

import pytest
import yaml

from promptfleet.tracking.sweep_run import SweepRun, trial_row
from promptfleet.tracking.writer import BackgroundWriter
from promptfleet.trial_records import Importances, TrialRecord
from tests.tracking.values import make_config, make_report, make_result

SEARCH = {"trials": 3, "space": {"experts": {"int": [1, 2]}, "gating_temperature": {"float": [0.01, 1.0]}}}


def record(number, state="complete", value=0.5, *, experts=1, test=0.4):
    params = {"experts": experts, "gating_temperature": 0.1}
    return TrialRecord(number, state, params, value, rounds=3, test_accuracy=test, seconds=1.5)


@pytest.fixture
def start(store, key):
    """``start()`` begins or continues this test's sweep."""
    return lambda search=SEARCH: SweepRun.start(store, make_config(), key=key, name="gating", search=search)


def test_trials_are_nested_and_named_by_what_was_tried(start, store, client):
    sweep = start()
    trial = sweep.child(7, {"experts": 2, "gating_temperature": 0.05}, make_config(experts=2, gating_temperature=0.05))
    run = client.get_run(trial.id)
    assert run.info.run_name == "trial 07  K=2 tau=0.05"
    assert run.data.tags["mlflow.parentRunId"] == sweep.id
    assert run.data.params["gating_temperature"] == "0.05"
    assert run.data.tags["trial"] == "7"
    assert [child.id for child in store.running_children(sweep.id)] == [trial.id]


def test_the_parent_holds_the_search(start, client, fetch):
    sweep = start()
    run = client.get_run(sweep.id)
    assert run.info.run_name == "sweep gating"
    assert run.data.params["space.experts.int"] == "[1, 2]"
    assert run.data.params["trials"] == "3"
    assert run.data.tags["method"] == "pfedmoap"
    assert yaml.safe_load(fetch(sweep.id, "search.yaml").read_text()) == SEARCH
    assert yaml.safe_load(fetch(sweep.id, "config.yaml").read_text()) == make_config().to_dict()


def test_a_resumed_sweep_is_the_same_run_and_may_ask_for_more(start, fetch, steps):
    first = start()
    trial = first.child(0, {"experts": 1}, make_config(experts=1))
    trial.log_round(make_report(1))
    second = start({**SEARCH, "trials": 9})
    again = second.child(0, {"experts": 1}, make_config(experts=1))
    again.log_round(make_report(1))
    again.log_round(make_report(2))
    assert (second.id, again.id) == (first.id, trial.id)
    assert steps(trial.id, "val/accuracy_mean") == [1, 2]
    assert yaml.safe_load(fetch(second.id, "search.yaml").read_text())["trials"] == 9


@pytest.mark.usefixtures("no_figures")
def test_finish_writes_table_best_trial_and_figures(start, client, artifacts, table, tmp_path):
    sweep = start()
    sweep.child(1, {"experts": 2}, make_config()).finish(make_result())
    trials = [
        record(0, value=0.5),
        record(1, value=0.7, experts=2, test=0.6),
        record(2, "pruned", 0.9, test=None),
        record(3, "failed", None, test=None),
    ]
    shares = {"experts": 0.8, "gating_temperature": 0.2}
    sweep.finish(trials, lambda: Importances(shares, dict.fromkeys(shares, 0.1), 2), folder=tmp_path / "figures")
    run = client.get_run(sweep.id)
    assert (run.info.status, run.data.tags["promptfleet.state"]) == ("FINISHED", "complete")
    assert run.data.metrics == {
        "best/val_accuracy": 0.7,
        "best/test_accuracy": 0.6,
        "zero_shot/test_accuracy": 0.25,
        "trials/complete": 2,
        "trials/pruned": 1,
        "trials/failed": 1,
    }
    assert run.data.tags["best_trial"] == "1"
    assert json.loads(run.data.tags["best_params"]) == {"experts": 2, "gating_temperature": 0.1}
    rows = table(sweep.id, "trials.json")
    assert rows["number"].tolist() == [0, 1, 2, 3]
    assert rows["state"].tolist() == ["complete", "complete", "pruned", "failed"]
    assert list(rows.columns[:5]) == ["number", "state", "value", "experts", "gating_temperature"]
    assert rows["experts"].tolist() == [1, 2, 1, 1]
    assert rows["value"].isna().tolist() == [False, False, False, True]
    figures = [name for name in artifacts(sweep.id) if name.startswith("figures/")]
    names = ("history", "importances", "parallel", "slices")
    assert figures == [f"figures/{name}.png" for name in names]
    assert sorted(path.stem for path in (tmp_path / "figures").iterdir()) == list(names)


@pytest.mark.slow
@pytest.mark.usefixtures("no_figures")
def test_the_description_has_the_best_trial_and_what_was_searched(start, client):
    sweep = start()
    sweep.child(1, {"experts": 2}, make_config()).finish(make_result())

    def note():
        return client.get_run(sweep.id).data.tags["mlflow.note.content"].splitlines()

    sweep.finish([record(0, "running", None)], status="KILLED")
    assert note()[0] == "No trial has run all its rounds yet."
    trials = [record(0, value=0.5), record(1, value=0.71234, experts=2, test=0.6), record(2, "running", None)]
    sweep.finish(trials, status="KILLED")
    assert note()[0] == "Best so far: **trial 01  K=2 tau=0.1**"
    sweep.finish([*trials[:2], record(2, value=0.71234)])
    assert note()[0] == "Best: **trial 01  K=2 tau=0.1** (tied with trial 2, which has the same value)"
    sweep.finish([*trials[:2], record(2, "pruned", 0.4)])
    lines = note()
    assert lines[0] == "Best: **trial 01  K=2 tau=0.1**"
    assert lines[2] == (
        "Validation accuracy 0.712, chosen by it; **test accuracy 0.600**, +0.350 against zero-shot CLIP's 0.250."
    )
    assert "Trials: 2 complete, 1 stopped early (pruned)." in lines
    assert "Searched: `experts` 1 to 2; `gating_temperature` 0.01 to 1." in lines
    assert any("figures/slices.png" in line for line in lines)
    assert not any("figures/importances.png" in line for line in lines), "there is none"
    assert any(line.startswith("- importance of each hyperparameter: not computed") for line in lines)


def test_figures_come_when_the_run_has_ended_and_none_keeps_the_others_back(start, client, artifacts):
    sweep = start()
    seen = []

    def importances():
        seen.append((client.get_run(sweep.id).info.status, "trials.json" in artifacts(sweep.id)))
        raise ValueError("no forest")

    sweep.finish([record(0, value=0.5), record(1, value=0.6)], importances)
    assert set(seen) == {("FINISHED", True)}
    assert [name for name in artifacts(sweep.id) if name.startswith("figures/")] == ["figures/history.png"]


def test_a_choice_of_many_values_is_listed_in_part_and_can_be_continued(start, client):
    search = {"trials": 3, "space": {"seed": {"choice": list(range(5000))}}}
    start(search).finish([])
    sweep = start(search)
    sweep.finish([])
    note = client.get_run(sweep.id).data.tags["mlflow.note.content"]
    assert "Searched: `seed` 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 4988 more." in note


def test_rows_of_the_table():
    trial = TrialRecord(3, "complete", {"rounds": 7, "partition.alpha": 0.1}, 0.5, 4, test_accuracy=0.4, seconds=1.5)
    assert list(trial_row(trial).items()) == [
        ("number", 3),
        ("state", "complete"),
        ("value", 0.5),
        ("params.rounds", 7),
        ("partition.alpha", 0.1),
        ("rounds", 4),
        ("test_accuracy", 0.4),
        ("seconds", 1.5),
    ]
    attacked = replace(trial, honest_test_accuracy=0.3)
    assert list(trial_row(attacked).items())[-1] == ("honest_test_accuracy", 0.3)


def test_a_sweep_interrupted_twice_is_written_each_time(start, client, steps, artifacts):
    sweep = start()
    assert client.get_run(sweep.id).info.status == "RUNNING"
    sweep.finish([record(0, "running", None)], status="KILLED")
    assert client.get_run(sweep.id).info.status == "KILLED"
    assert "figures/history.png" not in artifacts(sweep.id)
    start().finish([record(0, value=0.5), record(1, "running", None)], status="KILLED")
    for _ in range(2):
        start().finish([record(0, value=0.5), record(1, value=0.6)])
    assert client.get_run(sweep.id).info.status == "FINISHED"
    assert steps(sweep.id, "best/val_accuracy") == [0, 0]
    assert client.get_run(sweep.id).data.metrics["best/val_accuracy"] == 0.6
    assert "figures/importances.png" not in artifacts(sweep.id)


def test_finish_ends_trials_whose_process_died(start, client):
    sweep = start()
    dead = sweep.child(0, {}, make_config())
    done = sweep.child(1, {}, make_config())
    done.finish(None, "FAILED", reason="out of memory")
    sweep.finish([], status="KILLED")
    assert client.get_run(dead.id).info.status == "KILLED"
    assert client.get_run(dead.id).data.tags["promptfleet.state"] == "interrupted"
    assert client.get_run(done.id).info.status == "FAILED"
    assert client.get_run(sweep.id).data.tags["promptfleet.state"] == "interrupted"


@pytest.mark.usefixtures("no_figures")
def test_a_sweep_written_from_the_background_thread(start, client, steps, caplog):
    trials = {}
    with BackgroundWriter() as writer:
        sweep = start()
        for number in (0, 1):
            writer.submit(lambda n: trials.update({n: sweep.child(n, {}, make_config())}), number)
            writer.submit(lambda n: trials[n].log_round(make_report(1)), number)
            writer.submit(lambda n: trials[n].finish(make_result()), number)
        writer.submit(sweep.finish, [record(0), record(1)])
    assert writer.failures == 0, caplog.text
    assert [client.get_run(trials[number].id).info.status for number in (0, 1)] == ["FINISHED", "FINISHED"]
    assert steps(trials[1].id, "val/accuracy_mean") == [1, 2, 3]


def test_a_sweep_deleted_meanwhile_is_begun_again_and_keeps_its_trials(start, client):
    sweep = start()
    first, second = (sweep.child(number, {"experts": 1}, make_config(experts=1)) for number in range(2))
    before = sweep.id
    client.delete_run(before)
    client.delete_run(second.id)
    second.log_round(make_report(1))
    assert sweep.id != before
    for run in (first, second):
        assert client.get_run(run.id).data.tags["mlflow.parentRunId"] == sweep.id
    client.delete_run(sweep.id)
    sweep.finish([record(0), record(1)])
    again = client.get_run(sweep.id)
    assert (again.info.status, again.info.lifecycle_stage, again.data.params["trials"]) == ("FINISHED", "active", "3")
    assert client.get_run(first.id).data.tags["mlflow.parentRunId"] == sweep.id
