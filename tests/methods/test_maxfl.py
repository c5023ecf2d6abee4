from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from promptfleet.errors import ConfigError
from promptfleet.federation.settings import federation_config
from promptfleet.methods import config_class, load_method
from promptfleet.methods.maxfl import MaxFL, appeal
from promptfleet.methods.parts.prompts import encode_contexts, encode_frozen
from promptfleet.methods.parts.side_by_side import run_alone
from promptfleet.methods.protocol import Message
from tests.fakes import tiny_arrived, tiny_client, tiny_examples, tiny_task
from tests.tiny_federation import ALL, equal, tiny_federation

COHORTS = [ALL, [0, 2]]


def maxfl(**config):
    return tiny_federation("maxfl", **{"solo_epochs": 3, "judged_on": "train", **config})


def personal(fed, client, **download):
    task = tiny_task(fed.world, fed.privates[client], fed.download(client), fed.examples(client))
    task = replace(task, download=replace(task.download, **download))
    return replace(task, private=run_alone(fed.world, fed.method.personalize(task), "personalize"))


def loss_of(fed, client, context):
    examples, text = fed.examples(client), encode_frozen(fed.world, context)
    return F.cross_entropy(fed.world.clip.logit_scale * examples.images.features @ text.T, examples.labels)


def test_the_weight_is_largest_at_the_requirement_symmetric_and_falls_on_both_sides():
    excess = torch.linspace(-5, 5, 41)
    weights = appeal(excess)
    assert weights.max() == weights[20] == 0.25
    assert torch.allclose(weights, weights.flip(0))
    assert (weights[:21].diff() > 0).all()
    assert appeal(torch.tensor([-1e4, 1e4])).tolist() == [0.0, 0.0]


def test_with_equal_weights_and_equal_clients_it_is_promptfl_bit_for_bit():
    fed, promptfl = maxfl(appeal_temperature=1e9), tiny_federation("promptfl")
    for one in (fed, promptfl):
        for i in ALL:
            one.clients[i] = tiny_client(i, one.method, one.world, train=tiny_examples(one.world, 8, seed=i))
        one.run(COHORTS)
    for ours, theirs in zip(fed.contexts, promptfl.contexts, strict=True):
        assert torch.equal(ours, theirs)


def test_with_equal_weights_clients_count_equally_whatever_their_examples():
    fed = maxfl(appeal_temperature=1e9)
    sent = [fed.clients[i].train(1, fed.privates[i], fed.download(i)).upload.tensors["context"] for i in (0, 3)]
    fed.run([[0, 3]])
    assert torch.allclose(fed.server.state["context"], (sent[0] + sent[1]) / 2, atol=1e-7)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_weighted_steps_are_the_gradient_of_the_count_of_unhappy_clients(temperature):
    one_step = {"local_epochs": 1, "batch_size": 100, "momentum": 0.0, "weight_decay": 0.0}
    fed = maxfl(appeal_temperature=temperature, **one_step)
    start = fed.server.state["context"]
    results = {i: fed.clients[i].train(1, fed.privates[i], fed.download(i)) for i in ALL}
    leaf = start.clone().requires_grad_()
    text = encode_contexts(fed.world, leaf[None])[0]
    unhappy = 0.0
    for i in ALL:
        examples, requirement = fed.examples(i), results[i].private["requirement"]
        loss = F.cross_entropy(fed.world.clip.logit_scale * examples.images.features @ text.T, examples.labels)
        unhappy = unhappy + temperature * torch.sigmoid((loss - requirement) / temperature)
    unhappy.backward()
    uploads = [result.upload.tensors for result in results.values()]
    steps = sum(upload["appeal"] * (upload["context"] - start) for upload in uploads)
    assert torch.allclose(steps, -fed.world.config.prompt_lr * leaf.grad, atol=1e-6)
    assert leaf.grad.norm() > 1e-3
    assert len({round(float(upload["appeal"]), 6) for upload in uploads}) == 4


def test_the_server_moves_by_its_rate_towards_the_weighted_mean():
    fed = maxfl(server_lr=0.5)
    start = fed.server.state["context"]
    sent = [fed.clients[i].train(1, fed.privates[i], fed.download(i)).upload.tensors for i in (0, 2)]
    fed.run([[0, 2]])
    mean = sum(one["appeal"] * one["context"] for one in sent) / sum(one["appeal"] for one in sent)
    assert torch.allclose(fed.server.state["context"], (start + mean) / 2, atol=1e-6)


def test_a_client_cannot_claim_a_larger_weight_and_without_any_weight_all_count_equally():
    fed = maxfl()
    contexts = {i: torch.full((3, 16), float(i)) for i in (0, 2)}

    def aggregated(weights):
        uploads = {i: Message({"context": contexts[i], "appeal": torch.tensor(weights[i])}) for i in (0, 2)}
        return fed.method.aggregate(fed.server.state, tiny_arrived(fed.world, uploads, {0: 1, 2: 9}))["context"]

    assert torch.allclose(aggregated({0: 0.25, 2: 1e6}), torch.ones(3, 16))
    assert torch.allclose(aggregated({0: 0.0, 2: 0.0}), torch.ones(3, 16))
    assert torch.allclose(aggregated({0: 0.2, 2: -5.0}), torch.zeros(3, 16))


def test_the_requirement_is_the_loss_of_a_prompt_trained_alone_once_from_the_common_start():
    fed = maxfl(local_epochs=1, shuffle=False)
    start = fed.server.state["context"]
    fed.run([[0, 1], [1, 2]])
    coop = tiny_federation("coop", solo_epochs=3, local_epochs=3, shuffle=False, prompt_lr=0.05)
    coop.server.state = {**coop.server.state, "context": start}
    coop.run([[1, 2]])
    for i in (1, 2):  # the one after the first round, too
        assert torch.allclose(fed.privates[i]["context"], coop.privates[i]["context"], atol=1e-6)
        wanted = loss_of(fed, i, fed.privates[i]["context"])
        assert float(fed.privates[i]["requirement"]) == pytest.approx(float(wanted), rel=1e-5)
    first = fed.privates[1]["context"]
    assert torch.equal(fed.run([[1]]).privates[1]["context"], first)


def test_the_preferred_prompt_has_the_least_loss_of_both():
    fed = maxfl().run([ALL, ALL])
    for i in ALL:
        task = personal(fed, i)
        examples = fed.examples(i)
        preferred = F.cross_entropy(fed.method.predict(task, examples.images), examples.labels)
        both = [loss_of(fed, i, fed.server.state["context"]), fed.privates[i]["requirement"]]
        assert float(preferred) == pytest.approx(float(min(both)), abs=1e-5)


def test_a_bad_global_prompt_appeals_to_no_client_and_is_not_predicted_with():
    fed = maxfl().run([ALL])
    good = [fed.method.describe(personal(fed, i), fed.examples(i).images)["appeals"].item() for i in ALL]
    assert set(good) <= {0.0, 1.0}
    bad = {"text": -fed.server.state["text"]}
    for i in ALL:
        task = personal(fed, i, attached={**fed.download(i).attached, **bad})
        assert fed.method.describe(task, fed.examples(i).images)["appeals"].tolist() == [0.0]
        own = fed.world.clip.logit_scale * fed.examples(i).images.features @ fed.privates[i]["text"].T
        assert torch.allclose(fed.method.predict(task, fed.examples(i).images), own, atol=1e-5)


def test_before_it_trained_a_client_has_no_requirement_and_predicts_with_the_global_prompt():
    fed = maxfl().run([[0]])
    task = personal(fed, 3)
    assert fed.method.describe(task, fed.examples(3).images) == {}
    wanted = fed.world.clip.logit_scale * fed.examples(3).images.features @ fed.server.state["text"].T
    assert torch.allclose(fed.method.predict(task, fed.examples(3).images), wanted, atol=1e-5)


@pytest.mark.parametrize("aggregation", ["mean", "median"])
def test_a_client_leaves_after_rounds_without_appeal_and_counts_for_nothing(aggregation):
    fed = maxfl(patience=2, aggregation=aggregation).run([ALL])
    unhappy = {"requirement": torch.tensor(-9.0), "without_appeal": torch.tensor(1)}
    fed.privates[0] |= unhappy
    fed.privates[1] |= {"requirement": torch.tensor(9.0), "without_appeal": torch.tensor(1)}
    fed.run([ALL])
    assert [int(fed.privates[i]["without_appeal"]) for i in (0, 1)] == [2, 0]
    before, sent = dict(fed.privates[0]), fed.clients[0].train(3, fed.privates[0], fed.download(0))
    assert sent.report.metrics == {"left": 1.0}
    assert equal(sent.private, before)
    assert equal(sent.upload.tensors, {"context": fed.download(0).tensors["context"], "appeal": torch.zeros(())})
    others = tiny_arrived(
        fed.world,
        {i: fed.clients[i].train(3, fed.privates[i], fed.download(i)).upload for i in (1, 2)},
        dict.fromkeys(ALL, 1),
    )
    both = replace(others, uploads={0: sent.upload, **others.uploads})
    assert equal(*(fed.method.aggregate(fed.server.state, arrived) for arrived in (both, others)))
    alone = tiny_arrived(fed.world, {0: sent.upload}, {0: 1})
    assert torch.equal(fed.method.aggregate(fed.server.state, alone)["context"], fed.server.state["context"])


def test_the_prompt_and_one_number_are_uploaded_and_reports_have_the_weight():
    fed = maxfl().run([ALL])
    trained = fed.clients[0].train(2, fed.privates[0], fed.download(0))
    assert trained.upload.num_bytes == 4 * (3 * 16 + 1)
    assert fed.download(0).num_bytes == 4 * 3 * 16
    assert trained.report.metrics["appeal_weight"] == pytest.approx(float(trained.upload.tensors["appeal"]))
    excess = loss_of(fed, 0, fed.server.state["context"]) - fed.privates[0]["requirement"]
    assert trained.report.metrics["appeals"] == float(excess < 0)
    assert float(trained.upload.tensors["appeal"]) == pytest.approx(float(appeal(excess / 0.2)), abs=1e-6)


@pytest.mark.parametrize(
    "option",
    [{"solo_epochs": 6}, {"appeal_temperature": 0.05}, {"server_lr": 0.5}, {"judged_on": "validation"}],
    ids=str,
)
def test_an_option_changes_the_global_prompt(option):
    contexts = [maxfl(**config).run([ALL]).contexts[-1] for config in ({}, option)]
    assert not torch.allclose(*contexts, atol=1e-5)


def test_an_option_says_whether_a_client_may_predict_with_its_own_prompt():
    feds = {prediction: maxfl(prediction=prediction).run([ALL]) for prediction in ("preferred", "global")}
    assert feds["preferred"].sha256() == feds["global"].sha256()
    for fed in feds.values():
        fed.server.state = {**fed.server.state, "text": -fed.server.state["text"]}
    assert not torch.allclose(feds["preferred"].logits(0), feds["global"].logits(0), atol=1e-3)


def test_incfl_is_another_name():
    assert isinstance(load_method("incfl"), MaxFL)
    assert config_class("incfl") is config_class("maxfl")
    states = [tiny_federation(name, solo_epochs=1).run([[0, 1]]).server.state for name in ("maxfl", "incfl")]
    assert equal(*states)
    assert federation_config({"method": "incfl", "server_lr": 2.0}).server_lr == 2.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"appeal_temperature": 0.0}, "appeal_temperature: got 0"),
        ({"patience": -1}, "patience: got -1, should be greater than or equal to 0"),
        ({"judged_on": "test"}, "judged_on: got 'test', should be 'validation' or 'train'"),
    ],
)
def test_bad_values_are_named(values, message):
    with pytest.raises(ConfigError, match=message):
        federation_config({"method": "maxfl", **values})
