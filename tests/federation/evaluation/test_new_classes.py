"""Base to new: a federation trains on base classes, and its prompts are tested on new ones, too."""

from dataclasses import replace

import numpy as np
import pytest

from promptfleet.data.samples import Samples
from promptfleet.errors import ConfigError
from promptfleet.features.image_encoder import load_inputs
from promptfleet.federation.evaluation.calibration import Certainty, calibration_errors
from promptfleet.federation.evaluation.schedule import Plan, cannot_predict_new
from promptfleet.federation.evaluation.scores import BASE, LOCAL, NEW, harmonic_mean
from promptfleet.federation.local_fleet import LocalFleet
from promptfleet.federation.partitioning import partition_for
from promptfleet.federation.prepare import Prepared, prepare
from promptfleet.federation.reports import summary_from_json
from promptfleet.federation.rounds import Federation
from promptfleet.methods import load_method
from promptfleet.methods.parts.prompts import context_with_text

SHOTS = {"shots": 4}
HALF = {"new_classes": 0.5, **SHOTS}


@pytest.fixture
def run(small_config, prepared):
    def run(**values):
        config = small_config(**{"method": "promptfl", "partition": HALF, "runtime": {"backend": "local"}, **values})
        federation = Federation(config, prepared, LocalFleet(prepared))
        while federation.rounds_done < config.rounds:
            federation.run_round()
        return federation.result()

    return run


def zero_shot_by_hand(store, prepared, labels):
    """Which samples of these classes zero-shot CLIP predicts right among them."""
    return certainty_by_hand(store, prepared, labels)[1]


def certainty_by_hand(store, prepared, labels):
    """The highest probability of zero-shot CLIP among these classes for each of their samples, and which are right."""
    among = np.isin(store.labels, labels)
    cosine = store.features[among] @ prepared.clip.zero_shot_text.numpy()[labels].T
    logits = prepared.clip.logit_scale * cosine
    confidence = 1 / np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1)
    return confidence, cosine.argmax(axis=1) + labels[0] == store.labels[among]


def test_base_and_new_are_there_in_the_last_and_the_best_round(run):
    result = run(rounds=4, prompt_lr=0.1)
    assert all(count == 0 for client in result.clients for count in client.label_counts[5:])
    best_so_far, value = set(), -1.0
    for report in result.rounds:
        if report.val_accuracy > value:
            best_so_far.add(report.round)
            value = report.val_accuracy
        assert ("test/new" in report.accuracy) == (report.round in best_so_far | {4})
        assert report.set_calibration.keys() == {"test/base", "test/new"} & report.accuracy.keys()
    assert {"test/base", "test/new", "test/harmonic_base_new"} <= result.best_round_accuracy.keys()
    assert result.accuracy["test/base"] == result.accuracy["test/global"]
    assert "val/new" not in result.accuracy
    for client in result.clients:
        pair = [client.accuracy["test/base"], client.accuracy["test/new"]]
        assert client.accuracy["test/harmonic_base_new"] == harmonic_mean(pair)
    for name, errors in result.set_calibration.items():
        right = sum(one.count * one.accuracy for one in errors.bins) / sum(one.count for one in errors.bins)
        assert right == pytest.approx(result.accuracy[name].weighted_mean)
    assert summary_from_json(result.to_json()).to_json() == result.to_json()


def test_zero_shot_is_the_plain_computation_on_each_set(run, small_config, prepared):
    store, result = prepared.open_store(), run(method="zero_shot")
    new = zero_shot_by_hand(store, prepared, range(5, 10))
    assert result.accuracy["test/new"].mean == new.mean()
    right = np.zeros(len(store.labels), dtype=bool)
    right[store.labels < 5] = zero_shot_by_hand(store, prepared, range(5))
    config = small_config(method="zero_shot", partition=HALF)
    splits = partition_for(config, Samples.of_store(store, prepared.class_names)).clients
    assert result.accuracy["test/base"].mean == right[np.concatenate([split.test for split in splits])].mean()
    assert result.zero_shot_accuracy == pytest.approx(np.mean([right[split.test].mean() for split in splits]))
    assert result.test_accuracy == pytest.approx(result.zero_shot_accuracy)
    errors = calibration_errors(Certainty(*certainty_by_hand(store, prepared, range(5, 10))))
    of_new = result.set_calibration["test/new"]
    assert (of_new.ece, of_new.mce) == pytest.approx((errors["ece"], errors["mce"]), abs=1e-5)
    assert sum(one.count for one in of_new.bins) == 3 * len(new), "of each of three clients"
    assert [client.calibration["ece_new"] for client in result.clients] == pytest.approx([errors["ece"]] * 3, abs=1e-5)
    # each client predicts the union of the test parts, so that of base is as of all the parts together
    assert result.set_calibration["test/base"].ece == pytest.approx(result.calibration.ece, abs=1e-5)
    for name in ("test/local", "test/global", "test/base", "test/new", "test/harmonic_base_new"):
        assert run().zero_shot[name].mean == pytest.approx(result.accuracy[name].mean)


def test_an_untrained_context_named_as_the_template_is_zero_shot(small_config, prepared):
    _, backbone = load_inputs(small_config())
    (ids,) = backbone.tokenize(["a handwritten digit"])
    words = ids[1 : int(ids.argmax())]
    config = small_config(method="promptfl", prompt_length=len(words), partition=HALF)
    store, fleet = prepared.open_store(), LocalFleet(prepared)
    fleet.begin(config, partition_for(config, Samples.of_store(store, prepared.class_names)))
    context = backbone.tower.weights["token_embedding.weight"][words]
    fleet.load_server_state(context_with_text(prepared.world(config), context))
    plan = Plan((LOCAL, BASE, NEW), 0)
    evaluations = fleet.evaluate(1, fleet.initial_states(), fleet.select(1, range(3), "evaluate"), plan)
    expected = zero_shot_by_hand(store, prepared, range(5, 10)).mean()
    assert [one.scores["test/new"].accuracy for one in evaluations] == [expected] * 3


def test_only_the_new_accuracy_depends_on_images_of_new_classes(run, prepared, monkeypatch):
    runs = [run(method="pfedmoap", prompt_lr=0.1)]
    store = prepared.open_store()
    noise = np.random.default_rng(0).normal(size=store.features.shape).astype(np.float32)
    features = np.where(store.labels[:, None] < 5, store.features, noise)
    monkeypatch.setattr(Prepared, "open_store", lambda self: replace(store, features=features))
    runs.append(run(method="pfedmoap", prompt_lr=0.1))
    real, noisy = runs
    assert real.state_sha256 == noisy.state_sha256
    assert real.best_round == noisy.best_round
    for one, other in zip(real.rounds, noisy.rounds, strict=True):
        changed = {name for name, accuracy in one.accuracy.items() if other.accuracy[name] != accuracy}
        assert changed == {"test/new", "test/harmonic_base_new"} & one.accuracy.keys()
        assert one.train_metrics == other.train_metrics
        assert one.client_val_accuracy == other.client_val_accuracy


def test_it_is_the_federation_on_a_dataset_of_the_base_classes_alone(run, small_config, prepared):
    store = prepared.open_store()
    base = np.flatnonzero(store.labels < 5)
    columns = {name: getattr(store, name)[base] for name in ("features", "labels", "domains", "official")}
    alone = replace(prepared, clip=prepared.clip.take(range(5)), class_names=prepared.class_names[:5])
    config = small_config(method="promptfl", partition=SHOTS, runtime={"backend": "local"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Prepared, "open_store", lambda self: replace(store, **columns))
        federation = Federation(config, alone, LocalFleet(alone))
        while federation.rounds_done < config.rounds:
            federation.run_round()
        expected = federation.result()
    assert run().state_sha256 == expected.state_sha256
    assert run().test_accuracy == expected.test_accuracy


def test_evaluating_new_classes_changes_no_state(run):
    sets = {"base": "each", "new": "each"}
    runs = [
        run(method="fedtpg", evaluation={"sets": sets}),
        run(method="fedtpg", evaluation={"sets": {"new": "never"}, "calibration": "never"}),
    ]
    assert len({result.state_sha256 for result in runs}) == 1
    assert all("test/new" in report.accuracy for report in runs[0].rounds)
    assert not any("test/new" in report.accuracy for report in runs[1].rounds)
    assert not any(report.set_calibration for report in runs[1].rounds)
    assert "test/base" in runs[1].accuracy


def test_a_method_that_cannot_shows_no_accuracy_and_the_reason(run, small_config):
    result = run(method="linear_probe")
    assert "test/base" in result.accuracy
    assert "test/new" not in result.accuracy
    events = [[str(event) for event in report.events] for report in result.rounds]
    reason = "evaluate: method linear_probe has parameters for each class that it was trained on; "
    assert events == [[f"{reason}no accuracy on new classes"], []]
    with pytest.raises(
        ConfigError, match=r"^evaluation\.sets\.new=each: method linear_probe has .* to auto, or choose "
    ):
        prepare(small_config(method="linear_probe", partition=HALF, evaluation={"sets": {"new": "each"}}))
    specific = small_config(method="promptfl", class_specific_context=True, partition=HALF)
    assert cannot_predict_new(specific).startswith("class_specific_context=true learns a context for each class")


def test_a_method_without_prompts_predicts_new_classes_with_class_specific_contexts_and_fits_any_length(
    run, small_config
):
    plain, specific = run(method="fed_mp"), run(method="fed_mp", class_specific_context=True, prompt_length=99)
    assert plain.accuracy["test/new"] == specific.accuracy["test/new"]
    assert not any(report.events for report in specific.rounds)
    for method, own in {"fed_mp": {}, "sgpt": {}, "zero_shot": {}, "dispfl": {"target": "adapter"}}.items():
        config = small_config(method=method, **own, class_specific_context=True, prompt_length=99, partition=HALF)
        assert cannot_predict_new(config) is None
        assert not load_method(method).has_prompt(config)
    assert cannot_predict_new(small_config(method="dispfl", class_specific_context=True))


@pytest.mark.parametrize("name", ["base", "new"])
def test_without_new_classes_their_sets_are_refused(small_config, name):
    with pytest.raises(
        ConfigError, match=rf"evaluation\.sets\.{name}=each needs partition\.new_classes, such as 0\.5$"
    ):
        small_config(evaluation={"sets": {name: "each"}})
    assert small_config(evaluation={"sets": {name: "never"}})


def test_too_few_classes_are_refused_before_anything_is_encoded(small_config):
    with pytest.raises(
        ConfigError, match=r"partition\.new_classes=0\.9: of 10 classes that makes 1 base and 9 new ones"
    ):
        prepare(small_config(partition={"new_classes": 0.9}))


def test_a_resumed_federation_has_the_same_accuracies(run, small_config, prepared):
    config = small_config(method="pfedmoap", partition=HALF, runtime={"backend": "local"})
    whole, first = run(method="pfedmoap"), Federation(config, prepared, LocalFleet(prepared))
    first.run_round()
    second = Federation(config, prepared, LocalFleet(prepared))
    second.restore(first.snapshot())
    second.run_round()
    assert second.result().accuracy == whole.accuracy
    assert second.result().set_calibration == whole.set_calibration
    assert second.result().state_sha256 == whole.state_sha256
