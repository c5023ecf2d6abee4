"""One federation in MLflow, read back through MLflow's own client."""

import contextlib
import json
import logging
import shlex
import sqlite3
import sys
from dataclasses import replace

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file

from promptfleet.federation.evaluation.calibration import Tally
from promptfleet.federation.evaluation.scores import client_accuracies
from promptfleet.federation.reports import Event, FederationResult, RoundReport, summary_from_json
from promptfleet.tracking.errors import TrackingError
from promptfleet.tracking.federation_run import FederationRun, round_metrics
from tests.federation.scores import evaluation
from tests.tracking.values import make_config, make_report, make_result

ROUND_METRICS = {
    "val/accuracy_mean": pytest.approx(0.4),
    "val/accuracy_min": pytest.approx(0.2),
    "val/accuracy_std": pytest.approx(0.2 * (2 / 3) ** 0.5),
    "test/accuracy_mean": pytest.approx(0.1),
    "test/accuracy_min": pytest.approx(0.05),
    "test/accuracy_std": pytest.approx(0.05 * (2 / 3) ** 0.5),
    "val/local": pytest.approx(0.4),
    "test/local": pytest.approx(0.1),
    "train/loss": 1.5,
    "round/rejected": 1,
    "traffic/down_bytes": 200,
    "traffic/up_bytes": 20,
    "seconds/round": 4.0,
}
FINAL = {"final", "zero_shot", "peak_round", "seconds"}
FIGURES = ["figures/accuracy.png", "figures/experts.png", "figures/gate.png", "figures/partition.png"]
OF_SETS = ["figures/base_new.png", "figures/local_global.png", "figures/reliability.png"]


@pytest.fixture
def start(store, key):
    """``start()`` begins or continues this test's run."""
    return lambda config=None, **options: FederationRun.start(
        store, config or make_config(), key=key, name="a federation", **options
    )


@pytest.fixture(scope="session")
def finished(store):
    """A finished run and its result; tests only read it."""
    run, result = FederationRun.start(store, make_config(), key="finished", name="finished"), make_result()
    for report in result.rounds:
        run.log_round(report)
    run.finish(result)
    return run, result


def test_params_are_the_config_without_where_and_how(finished, client):
    params = client.get_run(finished[0].id).data.params
    assert {name: params[name] for name in ("clients", "experts", "lambda", "partition.alpha", "seed")} == {
        "clients": "3",
        "experts": "2",
        "lambda": "0.5",
        "partition.alpha": "0.3",
        "seed": "0",
    }
    assert {name.split(".")[0] for name in params} & {"data", "runtime", "resources", "storage"} == set()


def test_an_attacked_and_a_private_federation_tell_more_each_round(start, client):
    run = start(make_config(adversary={"fraction": 0.34}, privacy={"epsilon": 25.0}))
    run.log_round(replace(make_report(2), honest_test_accuracy=0.125, epsilon_spent=3.5))
    metrics = client.get_run(run.id).data.metrics
    assert metrics["test/honest_accuracy_mean"] == 0.125
    assert metrics["val/honest_accuracy_mean"] == pytest.approx(0.4)
    assert metrics["privacy/epsilon_spent"] == 3.5


def test_tags_say_what_and_how(finished, client):
    tags = client.get_run(finished[0].id).data.tags
    expected = {"method": "pfedmoap", "dataset": "digits", "seed": "0", "promptfleet.state": "complete"}
    expected["partition_sha256"] = finished[1].partition_sha256
    assert {name: tags[name] for name in expected} == expected
    assert tags["command"] == shlex.join(sys.orig_argv)


def test_the_making_is_in_a_file(finished, fetch):
    values = json.loads(fetch(finished[0].id, "provenance.json").read_text())
    assert values["fingerprint"] == make_config().fingerprint()
    assert "torch" in values["versions"]


def test_the_description_compares_with_zero_shot_and_names_the_figures(finished, client):
    note = client.get_run(finished[0].id).data.tags["mlflow.note.content"]
    first, *rest = note.splitlines()
    assert first.startswith("**Test accuracy 0.100**, -0.150 against zero-shot CLIP's 0.250 on the same 3 clients;")
    assert "validation accuracy 0.600 after 3 rounds, best in round 3" in first
    assert sorted(line.split("`")[1] for line in rest if "`" in line) == FIGURES


def test_config_can_be_passed_back_in(finished, fetch):
    values = yaml.safe_load(fetch(finished[0].id, "config.yaml").read_text())
    assert make_config(**values) == make_config()
    assert values["runtime"]["backend"] == "local"


def test_a_round_is_one_batch(start, client, monkeypatch):
    run = start()
    batches = []
    log_batch = type(client).log_batch
    monkeypatch.setattr(
        type(client), "log_batch", lambda self, *a, **k: (batches.append(k.get("metrics")), log_batch(self, *a, **k))
    )
    run.log_round(make_report(2))
    (metrics,) = batches
    assert {metric.key: metric.value for metric in metrics} == ROUND_METRICS
    assert {metric.step for metric in metrics} == {2}
    assert client.get_run(run.id).data.metrics == ROUND_METRICS


def test_what_is_the_same_in_each_round_is_left_out(start, client):
    names = {"round/cohort_size", "round/rejected", "round/dropped", "round/simulated_time"}
    report = replace(make_report(1), rejected={})
    undisturbed = round_metrics(report, make_config())
    assert {name for name in names if undisturbed[name] is not None} == set()
    partial = round_metrics(report, make_config(participation=0.5))
    assert {name for name in names if partial[name] is not None} == {"round/cohort_size"}
    disturbed = round_metrics(replace(report, dropped=[1]), make_config(faults={"drop_rate": 0.5}))
    assert {name for name in names if disturbed[name] is not None} == names - {"round/rejected"}


def test_the_two_metrics_that_matter_come_first(finished, client):
    assert sorted(client.get_run(finished[0].id).data.metrics)[:2] == ["final/test_accuracy", "final/val_accuracy"]


def test_a_round_without_training_has_no_loss(start, client):
    run = start()
    run.log_round(make_report(1, loss=None))
    assert "train/loss" not in client.get_run(run.id).data.metrics


def test_a_continued_run_does_not_repeat_rounds(start, steps, client):
    first = start()
    for round_index in (1, 2, 3):
        first.log_round(make_report(round_index))
    second = start()  # the process died here; round 3 is computed again
    assert second.id == first.id
    for round_index in (3, 4):
        second.log_round(make_report(round_index))
    second.log_round(make_report(4))
    assert steps(first.id, "val/accuracy_mean") == [1, 2, 3, 4]
    assert steps(first.id, "seconds/round") == [1, 2, 3, 4]


def test_a_key_of_another_federation_is_refused(start):
    start()
    with pytest.raises(TrackingError, match="was started with seed=0 and cannot be continued with seed=1"):
        start(make_config(seed=1))
    start(make_config(storage={"path": "elsewhere"}))


def test_final_metrics(finished, client):
    run, _ = finished
    data = client.get_run(run.id).data
    assert client.get_run(run.id).info.status == "FINISHED"
    assert {name: value for name, value in data.metrics.items() if name.split("/")[0] in FINAL} == {
        "final/val_accuracy": pytest.approx(0.6),
        "final/test_accuracy": pytest.approx(0.1),
        "zero_shot/test_accuracy": 0.25,
        "peak_round/round": 3,
        "peak_round/test_accuracy": pytest.approx(0.1),
        "peak_round/test/local": pytest.approx(0.1),
        "peak_round/val/local": pytest.approx(0.6),
        "seconds/total": 12.0,
        "seconds/round": 5.0,
        "seconds/checkpoint": 0.25,
    }
    assert data.metrics["storage/checkpoint_bytes"] == 4096


@pytest.mark.usefixtures("no_figures")
def test_every_evaluation_set_has_its_metrics_and_its_column(start, store, client, table):
    evaluations = [
        evaluation(number, test=local, samples=2 + number, **{"test/global": everywhere})
        for number, (local, everywhere) in enumerate([(0.5, 0.5), (1.0, 0.5), (0.25, 0.25)])
    ]
    tally = Tally([0, 0, 2, *[0] * 7], [0.0, 0.0, 0.5, *[0.0] * 7], [0, 0, 2, *[0] * 7])
    evaluations[0] = replace(evaluations[0], tallies={"test/base": tally})
    report = RoundReport.of(3, [0], [], {}, evaluations, 1.0)
    result = make_result()
    pairs = zip(result.clients, evaluations, strict=True)
    clients = [replace(one, accuracy=client_accuracies(of)) for one, of in pairs]
    rounds = [*result.rounds[:2], report]
    sets = {"accuracy": report.accuracy, "best_round_accuracy": result.rounds[0].accuracy}
    run = start()
    run.finish(replace(result, rounds=rounds, clients=clients, **sets))
    metrics = client.get_run(run.id).data.metrics
    wanted = {
        "test/local": 1.75 / 3,
        "test/global": 1.25 / 3,
        "test/harmonic_local_global": (0.5 + 2 / 3 + 0.25) / 3,
        "peak_round/test/local": 0.1,
        "test/local_bottom_decile": 0.25,
        "test/local_weighted_mean": (2 * 0.5 + 3 + 4 * 0.25) / 9,
        "test/local_global_harmonic_of_means": 2 * 1.75 * 1.25 / 9,
        "test/base_calibration_ece": 0.75,
        "test/base_calibration_client_mce": 0.75,
    }
    assert {name: metrics[name] for name in wanted} == pytest.approx(wanted)
    assert table(run.id, "clients.json")["test/global"].tolist() == [0.5, 0.5, 0.25]


def test_clients_are_a_table(finished, table):
    run, result = finished
    rows = table(run.id, "clients.json")
    assert list(rows.columns) == [
        "id",
        "held_out",
        "num_train",
        "num_val",
        "num_test",
        "val_accuracy",
        "test_accuracy",
        "zero_shot_accuracy",
    ]
    assert rows["id"].tolist() == [0, 1, 2]
    assert rows["val_accuracy"].tolist() == pytest.approx([reported.val_accuracy for reported in result.clients])


@pytest.mark.usefixtures("no_figures")
def test_what_went_wrong_is_a_table_and_a_tag(start, table, client):
    run = start()
    died = Event("train", [0, 2], "its process died", "done again")
    run.finish(make_result(rounds=1, events=[died, Event("select", [], "it died", "done again")]))
    assert table(run.id, "events.json").to_dict("records") == [
        {"round": 1, "stage": "train", "clients": "0, 2", "what": "its process died", "action": "done again"},
        {"round": 1, "stage": "select", "clients": "", "what": "it died", "action": "done again"},
        {"round": 1, "stage": "aggregate", "clients": "2", "what": "NaN in context", "action": "rejected"},
    ]
    assert client.get_run(run.id).data.tags["promptfleet.events"] == "2 done again, 1 rejected"


def test_states_are_kept_bit_for_bit(finished, fetch):
    run, result = finished
    server = load_file(fetch(run.id, "states/server.safetensors"))
    file = fetch(run.id, "states/clients.safetensors")
    clients = load_file(file)
    assert sorted(server) == sorted(result.server)
    assert all(torch.equal(server[name], tensor) for name, tensor in result.server.items())
    expected = {f"client_{client:03d}/{name}" for client, state in result.privates.items() for name in state}
    assert set(clients) == expected
    assert torch.equal(clients["client_002/gate.query.weight"], torch.full((2, 2), 2 / 3))
    assert clients["client_001/gate_ready"].dtype == torch.bool
    with safe_open(file, "pt") as opened:
        assert opened.metadata() == {"method": "pfedmoap", "seed": "0", "state_sha256": result.state_sha256}


def test_result_can_be_read_back(finished, fetch):
    run, result = finished
    text = fetch(run.id, "result.json").read_text()
    assert FederationResult.of(summary_from_json(text), result.server, result.privates) == result


def test_figures_are_images(finished, artifacts, fetch):
    names = artifacts(finished[0].id)
    assert [name for name in names if name.startswith("figures/")] == FIGURES
    assert fetch(finished[0].id, FIGURES[0]).read_bytes().startswith(b"\x89PNG")


def test_a_method_without_experts_has_no_figures_of_them(start, artifacts):
    run = start()
    run.finish(make_result(described=False))
    assert [name for name in artifacts(run.id) if "figures/" in name] == [FIGURES[0], FIGURES[3]]


@pytest.mark.usefixtures("no_figures")
def test_finishing_again_leaves_one_of_everything(start, steps, fetch):
    run = start()
    run.finish(make_result())
    again = start()
    again.finish(make_result())
    assert steps(run.id, "final/test_accuracy") == [0]
    assert steps(run.id, "val/accuracy_mean") == [1, 2, 3], "rounds of the result that were not logged are added"
    assert len(json.loads(fetch(run.id, "clients.json").read_text())["data"]) == 3


def test_a_pruned_trial(start, client, artifacts):
    run = start()
    for round_index in (1, 2):
        run.log_round(make_report(round_index))
    run.finish(None, "KILLED")
    pruned = client.get_run(run.id)
    assert (pruned.info.status, pruned.data.tags["promptfleet.state"]) == ("KILLED", "pruned")
    assert artifacts(run.id) == ["config.yaml", "figures/accuracy.png", "provenance.json"]
    note = pruned.data.tags["mlflow.note.content"]
    assert note.startswith("**Stopped early** after round 2 of 3 at validation accuracy 0.400")
    assert "figures/accuracy.png" in note
    assert "figures/gate.png" not in note


@pytest.mark.slow
def test_a_pruned_trial_with_a_result_is_described_as_stopped(start, client):
    run = start(make_config(rounds=9))
    run.finish(make_result(), "KILLED")
    note = client.get_run(run.id).data.tags["mlflow.note.content"]
    assert note.startswith("**Stopped early** after round 3 of 9 at validation accuracy 0.600")
    assert "figures/gate.png" in note


def test_a_failed_trial_says_why(start, client, artifacts):
    run = start()
    run.finish(None, "FAILED", reason="client 3, round 2, train: NaN")
    failed = client.get_run(run.id)
    assert (failed.info.status, failed.data.tags["promptfleet.state"]) == ("FAILED", "failed")
    assert failed.data.tags["promptfleet.reason"] == "client 3, round 2, train: NaN"
    assert failed.data.tags["mlflow.note.content"] == "**Failed** after 0 of 3 rounds: `client 3, round 2, train: NaN`"
    assert artifacts(run.id) == ["config.yaml", "provenance.json"]


def test_an_interrupted_run_goes_on(start, client):
    run = start()
    run.interrupt()
    left = client.get_run(run.id)
    assert (left.info.status, left.data.tags["promptfleet.state"]) == ("KILLED", "interrupted")
    assert start().id == run.id
    goes_on = client.get_run(run.id)
    assert (goes_on.info.status, goes_on.data.tags["promptfleet.state"]) == ("RUNNING", "running")


def test_a_figure_that_fails_is_told_and_the_rest_is_kept(start, client, artifacts, monkeypatch, caplog):
    def broken(*_):
        raise FloatingPointError("no colours left")

    monkeypatch.setattr("promptfleet.figures.partition.partition_figure", broken)
    run = start()
    with caplog.at_level(logging.WARNING):
        run.finish(make_result())
    assert "figure partition of run" in caplog.text
    assert "no colours left" in caplog.text
    assert [name for name in artifacts(run.id) if "figures/" in name] == FIGURES[:3]
    assert client.get_run(run.id).info.status == "FINISHED"


@pytest.mark.slow
def test_a_real_federation(start, steps, artifacts, fetch, tmp_path):
    from promptfleet import run_federation

    config = make_config(rounds=2, partition={"new_classes": 0.5}, storage={"path": str(tmp_path / "results")})
    run = start(config)
    result = run_federation(config, on_round=run.log_round)
    run.finish(result)
    assert steps(run.id, "train/loss") == [1, 2]
    assert [name for name in artifacts(run.id) if "figures/" in name] == sorted([*FIGURES, *OF_SETS])
    gates = load_file(fetch(run.id, "states/clients.safetensors"))
    assert torch.equal(gates["client_001/gate.query.weight"], result.privates[1]["gate.query.weight"])


@pytest.mark.usefixtures("no_figures")
def test_rounds_that_were_never_written_are_filled_in_at_the_end(start, client):
    """A driver that is killed takes with it what its thread had not written yet; later rounds do not hide the gap."""
    start().log_round(make_report(1))
    run = start()
    run.log_round(make_report(3))
    run.finish(make_result())
    history = client.get_metric_history(run.id, "val/accuracy_mean")
    assert [entry.step for entry in sorted(history, key=lambda entry: entry.step)] == [1, 2, 3]
    assert not run._reports, "many ended runs may wait for their figures"


@pytest.mark.usefixtures("no_figures")
def test_a_run_deleted_meanwhile_is_begun_again_with_all_its_rounds(start, client, steps, caplog):
    run = start()
    for index in (1, 2):
        run.log_round(make_report(index))
    before = run.id
    client.delete_run(before)
    run.log_round(make_report(3))
    assert run.id != before
    assert steps(run.id, "val/accuracy_mean") == [1, 2, 3]
    assert client.get_run(run.id).data.params["clients"] == "3"
    client.delete_run(run.id)
    run.finish(make_result())
    assert steps(run.id, "val/accuracy_mean") == [1, 2, 3]
    assert client.get_run(run.id).info.status == "FINISHED"
    assert [record.getMessage() for record in caplog.records] == 2 * [
        "tracking: run 'a federation' was deleted in MLflow; it is written again from its start"
    ]


def test_a_run_that_is_gone_for_good_is_begun_again(own_store, key):
    run = FederationRun.start(own_store, make_config(), key=key, name="a federation")
    run.log_round(make_report(1))
    with contextlib.closing(sqlite3.connect(own_store.path / "mlflow.db")) as database, database:
        database.execute("pragma foreign_keys = off")
        for table in ("metrics", "latest_metrics", "params", "tags", "runs"):
            database.execute(f"delete from {table} where run_uuid = ?", [run.id])  # as 'mlflow gc' does
    run.log_round(make_report(2))
    assert own_store.find_run(key).steps("val/accuracy_mean") == {1, 2}


def test_a_round_that_could_not_be_written_is_written_with_the_next(start, steps, monkeypatch):
    run = start()
    with monkeypatch.context() as patch:
        patch.setattr(type(run.run), "log_steps", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            run.log_round(make_report(1))
    run.log_round(make_report(2))
    assert steps(run.id, "val/accuracy_mean") == [1, 2]
