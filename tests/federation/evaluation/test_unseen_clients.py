"""Unseen clients: some never train, and what the others have learned is tested on their test parts."""

import json
from dataclasses import replace

import numpy as np
import pytest

from promptfleet.errors import ConfigError
from promptfleet.federation.checkpoints.checkpoint import load_snapshot, save_snapshot
from promptfleet.federation.conditions.adversaries import adversaries
from promptfleet.federation.conditions.cohort import training_clients
from promptfleet.federation.local_fleet import LocalFleet
from promptfleet.federation.prepare import Prepared, prepare
from promptfleet.federation.reports import summary_from_json
from promptfleet.federation.rounds import Federation

HELD_OUT = {"held_out_clients": 0.4, "shots": 4}  # two of five
SETS = ["test/unseen_clients", "test/unseen_clients_tuned"]


@pytest.fixture
def federation(small_config, prepared):
    def federation(**values):
        common = {"clients": 5, "method": "promptfl", "partition": HELD_OUT, "runtime": {"backend": "local"}}
        config = small_config(**{**common, **values})
        return Federation(config, prepared, LocalFleet(prepared))

    return federation


@pytest.fixture
def run(federation):
    def run(**values):
        one = federation(**values)
        while one.rounds_done < one.config.rounds:
            one.run_round()
        return one.result()

    return run


def test_the_servers_model_is_tested_on_their_test_parts(federation, run, prepared):
    unseen, splits = federation().partition.held_out, federation().partition.clients
    result, store = run(prompt_lr=0.1), prepared.open_store()
    assert [client.id for client in result.clients if client.held_out] == list(unseen)
    assert not set(unseen) & {client for report in result.rounds for client in report.cohort}
    found = {}
    for name, text in {"ours": result.server["text"], "zero-shot": prepared.clip.zero_shot_text}.items():
        parts = [splits[client].test for client in unseen]
        found[name] = [
            np.mean((store.features[part] @ text.numpy().T).argmax(1) == store.labels[part]) for part in parts
        ]
    assert [result.clients[client].accuracy for client in unseen] == [
        dict.fromkeys(SETS, pytest.approx(value)) for value in found["ours"]
    ]
    assert result.zero_shot["test/unseen_clients"].mean == pytest.approx(np.mean(found["zero-shot"]))
    assert result.zero_shot["test/unseen_clients"].clients == 2
    assert result.zero_shot_accuracy == pytest.approx(result.zero_shot["test/local"].mean)
    seen = [client for client in result.clients if not client.held_out]
    assert result.seen_clients == seen
    assert all(
        client.test_accuracy is None and client.val_accuracy is None for client in result.clients if client.held_out
    )
    gap = np.mean([client.test_accuracy for client in seen]) - np.mean(found["ours"])
    assert json.loads(result.to_json())["participation_gap"] == dict.fromkeys(SETS, pytest.approx(gap))
    assert summary_from_json(result.to_json()).to_json() == result.to_json()
    assert result.clients_frame()["held_out"].tolist() == [client.held_out for client in result.clients]


def test_fine_tuning_begins_at_the_servers_model(run):
    common = {"prompt_lr": 0.1, "rounds": 1}
    plain, tuned = run(**common), run(method="promptfl_ft", finetune_epochs=1, **common)
    assert tuned.accuracy[SETS[0]] == plain.accuracy[SETS[0]]
    assert tuned.accuracy[SETS[1]] != tuned.accuracy[SETS[0]] == plain.accuracy[SETS[1]]


def test_nothing_else_depends_on_their_images(federation, run, prepared, monkeypatch):
    store, partition = prepared.open_store(), federation(method="pfedmoap").partition
    theirs = np.concatenate([partition.clients[client].samples() for client in partition.held_out])
    noisy = np.array(store.features)
    noisy[theirs] = np.random.default_rng(0).normal(size=noisy[theirs].shape)
    real = run(method="pfedmoap")
    monkeypatch.setattr(Prepared, "open_store", lambda self: replace(store, features=noisy))
    other = run(method="pfedmoap")
    assert real.state_sha256 == other.state_sha256
    assert real.best_round == other.best_round
    assert set(SETS) <= real.rounds[-1].accuracy.keys()
    for one, two in zip(real.rounds, other.rounds, strict=True):
        changed = {name for name, accuracy in one.accuracy.items() if two.accuracy[name] != accuracy}
        assert changed == set(SETS) & one.accuracy.keys()
        assert (one.train_metrics, one.downloaded_bytes) == (two.train_metrics, two.downloaded_bytes)


def test_a_resumed_federation_has_the_same_accuracies_and_testing_changes_no_state(federation, run, tmp_path):
    whole, first = run(method="fedper"), federation(method="fedper")
    first.run_round()
    save_snapshot(tmp_path, first.snapshot(), "fingerprint")
    second = federation(method="fedper")
    second.restore(load_snapshot(tmp_path, "fingerprint", 5))
    second.run_round()
    assert second.result().accuracy == whole.accuracy
    without = run(method="fedper", evaluation={"sets": {"unseen_clients": "never"}})
    assert without.state_sha256 == second.result().state_sha256 == whole.state_sha256
    assert without.accuracy == {name: one for name, one in whole.accuracy.items() if name not in SETS}


def test_clients_of_one_process_or_many_have_the_same_accuracies(run):
    each = {"sets": {"unseen_clients": "each"}}
    runs = [
        run(method="fedpgp", rounds=1, evaluation=each, runtime={"backend": "local", "batch_steps": steps})
        for steps in (True, False)
    ]
    assert runs[0].accuracy == runs[1].accuracy
    assert all(set(SETS) <= report.accuracy.keys() for report in runs[0].rounds)


def test_attackers_and_evaluated_clients_are_among_those_that_train(small_config):
    for seed in range(8):
        config = small_config(seed=seed, clients=9, partition={"held_out_clients": 4}, adversary={"fraction": 0.4})
        training = training_clients(config)
        assert len(training) == 5
        assert len(adversaries(config)) == 2
        assert adversaries(config) <= set(training)


def test_methods_that_share_nothing_show_no_accuracy_and_the_reason(run, small_config):
    result = run(method="coop")
    assert not set(SETS) & result.accuracy.keys()
    reason = "clients of method coop share nothing that an unseen client could use"
    assert [str(event) for event in result.rounds[0].events] == [f"evaluate: {reason}; no accuracy of unseen clients"]
    asked = {"sets": {"unseen_clients": "last_and_best"}}
    with pytest.raises(
        ConfigError, match=rf"^evaluation\.sets\.unseen_clients=last_and_best: {reason}; set it to auto"
    ):
        prepare(small_config(method="coop", clients=5, partition=HELD_OUT, evaluation=asked))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"partition": {"held_out_clients": 5}},
            r"held_out_clients=5: no client of clients=5 would train; .* at most 4",
        ),
        ({"partition": {"held_out_clients": 0.95}}, r"held_out_clients=0.95: no client of clients=5 would train"),
        ({"partition": HELD_OUT, "evaluation": {"clients": 4}}, "at most clients=5 without 2 held out, or all"),
        ({"evaluation": {"sets": {"unseen_clients": "each"}}}, r"each needs partition\.held_out_clients, such as 0\.2"),
    ],
)
def test_what_cannot_be_held_out_is_one_line(small_config, values, message):
    with pytest.raises(ConfigError, match=message):
        small_config(clients=5, **values)
