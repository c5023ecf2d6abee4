"""Results written before evaluation sets had names."""

import shutil
from pathlib import Path

import pytest

from promptfleet.errors import DataError
from promptfleet.federation.checkpoints.folder import load_summary
from promptfleet.federation.reports import summary_from_json
from promptfleet.federation.settings import federation_config

OLD = Path(__file__).with_name("result_of_before_sets.json")


def test_a_result_without_named_sets_is_read_with_the_accuracies_of_its_local_ones():
    summary = summary_from_json(OLD.read_bytes())
    first, last = summary.rounds
    assert first.accuracy["val/local"].mean == pytest.approx(first.val_accuracy)
    assert first.accuracy["test/local"].std == pytest.approx(first.test_accuracy_std)
    assert summary.accuracy == last.accuracy
    assert summary.best_round_accuracy == summary.rounds[summary.best_round - 1].accuracy
    assert summary.clients[1].accuracy["test/local"] == summary.clients[1].test_accuracy
    sizes = [client.num_val for client in summary.clients]
    weighted = sum(size * one for size, one in zip(sizes, first.client_val_accuracy, strict=True)) / sum(sizes)
    assert first.accuracy["val/local"].weighted_mean == pytest.approx(weighted)
    assert summary_from_json(summary.to_json()).to_json() == summary.to_json()


@pytest.mark.parametrize("wrong", ['"client_val_accuracy": []', '"client_val_accuracy": [0.5]'])
def test_accuracies_that_are_missing_in_it_are_still_noticed(wrong):
    text = OLD.read_text()
    start = text.index('"client_val_accuracy"')
    damaged = text[:start] + wrong + text[text.index("]", start) + 1 :]
    with pytest.raises(ValueError, match="round 1 has not one accuracy for each of 4 clients"):
        summary_from_json(damaged)


def test_it_is_the_result_of_its_configuration_with_the_defaults_of_newer_keys(tmp_path):
    shutil.copy(OLD, tmp_path / "result.json")
    config = federation_config(dict(summary_from_json(OLD.read_bytes()).config))
    assert load_summary(tmp_path, config.fingerprint()).test_accuracy == pytest.approx(0.8513, abs=1e-4)
    other = config.model_copy(update={"seed": 1})
    with pytest.raises(DataError, match="another configuration"):
        load_summary(tmp_path, other.fingerprint())
