"""Evaluation sets of whole federations on the digits, in this process."""

import json
import re
from functools import partial

import numpy as np
import pytest

from promptfleet.data.samples import Samples
from promptfleet.errors import ConfigError, FederationError
from promptfleet.federation.checkpoints.checkpoint import load_snapshot, save_snapshot
from promptfleet.federation.evaluation import shared_sets
from promptfleet.federation.evaluation.answers import right_answers
from promptfleet.federation.evaluation.calibration import Certainty, calibration, calibration_errors
from promptfleet.federation.evaluation.schedule import evaluated_clients
from promptfleet.federation.local_fleet import LocalFleet
from promptfleet.federation.partitioning import partition_for
from promptfleet.federation.prepare import prepare
from promptfleet.federation.reports import summary_from_json
from promptfleet.federation.rounds import Federation
from promptfleet.methods.promptfl_ft import PromptFLFineTuned

EACH = {"global": "each", "others": "each", "server": "each"}
NEVER = dict.fromkeys(EACH, "never")


@pytest.fixture(scope="module")
def run_again(few_shot_config, prepared):
    """``run_again(**config)``: the result of a federation."""

    def run(**values):
        config = few_shot_config(**{"method": "promptfl", "runtime": {"backend": "local"}, **values})
        federation = Federation(config, prepared, LocalFleet(prepared))
        while federation.rounds_done < config.rounds:
            federation.run_round()
        return federation.result()

    return run


@pytest.fixture(scope="module")
def run(run_again):
    """``run(**config)``: the result of a federation, run once for all tests of this configuration, which only read."""
    results = {}

    def run(**values):
        key = json.dumps(values, sort_keys=True)
        if key not in results:
            results[key] = run_again(**values)
        return results[key]

    return run


def evaluated(report):
    """The clients that were evaluated in a round."""
    return [client for client, value in enumerate(report.client_test_accuracy) if value is not None]


def test_local_is_the_test_accuracy_bit_for_bit(run):
    result = run(method="pfedmoap")
    for report in result.rounds:
        assert report.accuracy["test/local"].mean == report.test_accuracy
        assert report.accuracy["val/local"].mean == report.val_accuracy
        assert report.accuracy["test/local"].std == report.test_accuracy_std
    assert result.accuracy == result.rounds[-1].accuracy
    assert result.best_round_accuracy == result.rounds[result.best_round - 1].accuracy
    assert [client.accuracy["test/local"] for client in result.clients] == result.rounds[-1].client_test_accuracy
    assert summary_from_json(result.to_json()).to_json() == result.to_json()


def test_the_only_client_has_no_others_and_global_equals_local(run):
    result = run(method="pfedmoap", clients=1, experts=0, participation=1.0)
    assert result.accuracy["test/global"] == result.accuracy["test/local"]
    assert result.accuracy["val/global"] == result.accuracy["val/local"]
    assert "test/others" not in result.accuracy


def test_one_model_for_all_is_as_good_for_each_client_and_is_the_servers(run):
    accuracy = run().accuracy
    assert accuracy["test/global"].std == 0.0
    assert accuracy["test/global"].mean == accuracy["test/server"].mean
    assert accuracy["test/server"].clients == 1
    assert accuracy["test/local"].weighted_mean == pytest.approx(accuracy["test/global"].mean)


def test_others_are_the_samples_of_all_clients_without_the_clients_own(run):
    result = run(method="pfedmoap")
    sizes = [client.num_test for client in result.clients]
    for client in result.clients:
        right = round(client.accuracy["test/global"] * sum(sizes)) - round(client.test_accuracy * client.num_test)
        assert client.accuracy["test/others"] == right / (sum(sizes) - client.num_test)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_with_iid_clients_global_is_close_to_local(run, seed):
    accuracy = run(method="pfedmoap", rounds=1, seed=seed, partition={"kind": "iid"}).accuracy
    assert abs(accuracy["test/global"].mean - accuracy["test/local"].mean) < 0.04


def test_zero_shots_numbers_are_those_of_open_clip_on_the_same_images_and_names(run, few_shot_config, prepared):
    store, config = prepared.open_store(), few_shot_config(method="zero_shot")
    samples = Samples.of_store(store, prepared.class_names)
    test = [split.test for split in partition_for(config, samples).clients]
    right = (store.features @ prepared.clip.zero_shot_text.numpy().T).argmax(axis=1) == store.labels
    accuracy = run(method="zero_shot").accuracy
    assert accuracy["test/server"].mean == accuracy["test/global"].mean == right[np.concatenate(test)].mean()
    assert accuracy["test/local"].mean == pytest.approx(np.mean([right[mine].mean() for mine in test]))
    others = [right[np.setdiff1d(np.concatenate(test), mine)].mean() for mine in test]
    assert accuracy["test/others"].mean == pytest.approx(np.mean(others))


def test_a_fine_tuned_clients_server_is_the_one_before_fine_tuning(run):
    common = {"prompt_lr": 0.1, "rounds": 1}
    plain, tuned = run(**common).accuracy, run(method="promptfl_ft", finetune_epochs=2, **common).accuracy
    assert tuned["test/server"] == plain["test/server"]
    assert tuned["test/global"] != plain["test/global"]


@pytest.mark.parametrize("method", ["pfedmoap", "promptfl", "fedpgp"])
def test_evaluating_changes_no_state_and_no_random_stream(run, method):
    sets = {**EACH, "server": "last_and_best"}
    runs = [run(method=method, evaluation={"sets": sets}), run(method=method, evaluation={"sets": NEVER})]
    runs.append(run(method=method, evaluation={"every": 2, "clients": 1, "calibration": "never"}))
    assert len({result.state_sha256 for result in runs}) == 1
    assert len({result.accuracy["test/local"] for result in runs}) == 1
    assert {*runs[1].accuracy} == {"test/local", "val/local"}


def test_sets_are_evaluated_in_the_rounds_that_the_configuration_names(run):
    best_and_last = run(rounds=4, prompt_lr=0.1)
    each = run(rounds=4, prompt_lr=0.1, evaluation={"sets": EACH})
    value, expected = 0.0, []
    for report in best_and_last.rounds:
        expected.append(report.val_accuracy > value or report.round == 4)
        value = max(value, report.val_accuracy)
    assert ["test/global" in report.accuracy for report in best_and_last.rounds] == expected
    assert False in expected, "all rounds are better than those before: the test shows nothing"
    for one, all_sets in zip(best_and_last.rounds, each.rounds, strict=True):
        assert {*all_sets.accuracy} >= {"test/global", "test/others", "test/server", "val/harmonic_local_global"}
        assert all(all_sets.accuracy[name] == accuracy for name, accuracy in one.accuracy.items())


def test_samples_are_read_in_blocks_and_the_result_does_not_depend_on_them(run, run_again, monkeypatch):
    whole, sizes = run(method="pfedmoap", rounds=1), []
    original = shared_sets.right_answers

    def watched(predict, task, examples):
        sizes.append(len(examples))
        return original(predict, task, examples)

    monkeypatch.setattr(shared_sets, "BLOCK", 64)
    monkeypatch.setattr(shared_sets, "right_answers", watched)
    assert run_again(method="pfedmoap", rounds=1).accuracy == whole.accuracy
    assert max(sizes) == 64


@pytest.mark.parametrize(("method", "models"), [("promptfl", 1), ("promptfl_ft", 3), ("bayesian_prompt", 3)])
def test_a_model_that_all_clients_share_predicts_shared_samples_once(run_again, monkeypatch, method, models):
    def evaluated():
        calls = []
        monkeypatch.setattr(shared_sets, "right_answers", lambda *given: calls.append(1) or right_answers(*given))
        return run_again(method=method, rounds=1, evaluation={"sets": {"server": "never"}}).accuracy, len(calls)

    once, calls = evaluated()
    monkeypatch.setattr(shared_sets, "first_with_same_model", lambda method, tasks: list(range(len(tasks))))
    each, calls_of_each = evaluated()
    assert once == each
    assert (calls, calls_of_each) == (2 * models, 2 * 3)  # the validation and the test part, three clients


def test_between_evaluations_nothing_is_evaluated(run):
    result = run(rounds=5, evaluation={"every": 2})
    assert [report.val_accuracy is not None for report in result.rounds] == [False, True, False, True, True]
    first = result.rounds[0]
    assert (first.accuracy, first.client_val_accuracy, first.client_test_accuracy) == ({}, [], [])
    assert (first.test_accuracy_std, first.honest_val_accuracy) == (None, None)
    assert result.best_round in (2, 4, 5)
    assert result.rounds[-1].accuracy == run(rounds=5).accuracy
    frame = result.client_rounds_frame()["val_accuracy"].unstack()
    assert frame.shape == (5, 3)
    assert frame.isna().all(axis=1).tolist() == [True, False, True, False, False]
    assert summary_from_json(result.to_json()).to_json() == result.to_json()


def test_a_sample_of_the_clients_is_evaluated_before_the_last_round(run, small_config):
    result = run(clients=5, rounds=3, evaluation={"clients": 2})
    first, second, last = result.rounds
    sample = evaluated(first)
    assert len(sample) == 2
    assert sample == evaluated(second)
    assert first.accuracy["test/local"].clients == 2
    assert None not in last.client_test_accuracy
    assert first.val_accuracy == pytest.approx(sum(first.client_val_accuracy[client] for client in sample) / 2)
    everybody = run(clients=5, rounds=3)
    for one in sample:
        assert first.client_test_accuracy[one] == everybody.rounds[0].client_test_accuracy[one]
    of_seed = partial(small_config, clients=50, rounds=3)
    samples = [evaluated_clients(of_seed(seed=seed, evaluation={"clients": 0.2}), 1) for seed in (0, 0, 1)]
    assert samples[0] == samples[1] != samples[2]
    assert {len(sample) for sample in samples} == {10}


def test_without_an_evaluated_round_there_is_no_result(small_config, prepared):
    federation = Federation(small_config(rounds=3, evaluation={"every": 3}), prepared, LocalFleet(prepared))
    federation.run_round()
    with pytest.raises(FederationError, match=r"none of 1 rounds was evaluated, see evaluation\.every"):
        federation.result()


def test_the_sample_is_honest_or_the_round_selects_nothing(run):
    attacks = {"fraction": 0.5, "kind": "noise"}
    result = run(clients=4, rounds=3, adversary=attacks, evaluation={"clients": 1})
    report = result.rounds[0]
    (sample,) = evaluated(report)
    assert report.honest_val_accuracy == (None if sample in result.adversaries else report.val_accuracy)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"every": 3}, "evaluation.every=3 should be at most rounds=2"),
        ({"clients": 4}, "evaluation.clients=4 should be at most clients=3, or all"),
        ({"clients": 0}, "evaluation.clients: got 0, should be 'all' or greater than or equal to 1 or "),
        ({"clients": 1.0}, "evaluation.clients: got 1.0, should be 'all' or "),
        ({"sets": {"global": "always"}}, "evaluation.sets.global: got 'always', should be 'each', 'last_and_best' or "),
        ({"sets": {"globl": "each"}}, "unknown key 'evaluation.sets.globl'; did you mean 'evaluation.sets.global'?"),
    ],
)
def test_what_cannot_be_meant_is_one_line(small_config, values, message):
    with pytest.raises(ConfigError) as error:
        small_config(evaluation=values)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_calibration_is_that_of_the_probabilities_of_zero_shot(run, few_shot_config, prepared):
    store, config = prepared.open_store(), few_shot_config(method="zero_shot")
    test = [split.test for split in partition_for(config, Samples.of_store(store, prepared.class_names)).clients]
    logits = prepared.clip.logit_scale * store.features @ prepared.clip.zero_shot_text.numpy().T
    probability = np.exp(logits - logits.max(axis=1, keepdims=True))
    confidence = 1 / probability.sum(axis=1)
    right = logits.argmax(axis=1) == store.labels
    wanted = calibration([Certainty(confidence[mine].astype(float), right[mine]) for mine in test])
    result = run(method="zero_shot", evaluation={"calibration": "each"})
    assert result.calibration.ece == pytest.approx(wanted.ece, abs=1e-5)
    assert result.calibration.ace == pytest.approx(wanted.ace, abs=1e-5)
    assert result.calibration.client_means == pytest.approx(wanted.client_means, abs=1e-5)
    assert sum(one.count for one in result.calibration.bins) == sum(client.num_test for client in result.clients)
    assert [client.calibration["ece"] for client in result.clients] == pytest.approx(
        [calibration_errors(Certainty(confidence[mine].astype(float), right[mine]))["ece"] for mine in test], abs=1e-5
    )
    assert all(report.calibration for report in result.rounds)
    assert summary_from_json(result.to_json()).to_json() == result.to_json()
    assert run(method="zero_shot", rounds=1, evaluation={"calibration": "never"}).calibration is None


def test_a_best_round_personalizes_and_predicts_each_part_once(run, monkeypatch):
    calls = {"personalize": 0, "predictor": 0}

    def counting(name):
        real = getattr(PromptFLFineTuned, name)

        def counted(self, task):
            calls[name] += 1
            return real(self, task)

        return counted

    for name in calls:
        monkeypatch.setattr(PromptFLFineTuned, name, counting(name))
    sets = {"global": "last_and_best", "others": "never", "server": "never"}
    result = run(method="promptfl_ft", finetune_epochs=0, evaluation={"sets": sets})
    assert all("test/global" in report.accuracy and report.calibration for report in result.rounds)
    parts = 4  # own and those of all clients, validation and test
    assert calls == {"personalize": 3 * 2, "predictor": 3 * 2 * parts}


def test_only_the_last_and_the_best_round_have_calibration(run):
    result = run(rounds=4, prompt_lr=0.1, evaluation={"sets": NEVER})
    best_so_far = [max(result.rounds[: index + 1], key=lambda one: one.val_accuracy).round for index in range(4)]
    with_it = {report.round for report in result.rounds if report.calibration}
    assert with_it == {*best_so_far, 4} < {1, 2, 3, 4}


def test_a_server_without_a_model_cannot_be_asked_for(small_config):
    config = small_config(method="pfedmoap", evaluation={"sets": {"server": "each"}})
    message = "evaluation.sets.server=each: the server of pfedmoap has no model; set it to never"
    with pytest.raises(ConfigError, match=re.escape(message)):
        prepare(config)


def test_a_federation_resumes_between_evaluations(few_shot_config, prepared, tmp_path):
    config = few_shot_config(method="promptfl", rounds=4, evaluation={"every": 3}, runtime={"backend": "local"})
    undisturbed = Federation(config, prepared, LocalFleet(prepared))
    for _ in range(4):
        undisturbed.run_round()
    for stopped in (1, 2, 3):
        first, second = (Federation(config, prepared, LocalFleet(prepared)) for _ in range(2))
        for _ in range(stopped):
            first.run_round()
        save_snapshot(tmp_path, first.snapshot(), "x")
        second.restore(load_snapshot(tmp_path, "x", clients=3))
        while second.rounds_done < 4:
            second.run_round()
        assert second.result().state_sha256 == undisturbed.result().state_sha256
        assert [one.accuracy for one in second.reports] == [one.accuracy for one in undisturbed.reports]
        assert second.result().clients == undisturbed.result().clients
