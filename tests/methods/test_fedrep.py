from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from promptfleet.errors import ConfigError
from promptfleet.federation.settings import federation_config
from promptfleet.methods.parts.prompts import encode_contexts, similarity_logits
from promptfleet.methods.parts.side_by_side import run_alone
from tests.fakes import tiny_examples, tiny_task
from tests.tiny_federation import ALL, equal, tiny_federation

COHORTS = [ALL, [0, 2]]
READINGS = pytest.mark.parametrize("reading", ["prompt", "adapter"])
ONE_STEP = {"batch_size": 100, "shuffle": False, "momentum": 0.0, "weight_decay": 0.01}


def fedrep(reading="prompt", **config):
    return tiny_federation("fedrep", **{"representation": reading, "head_epochs": 2, "final_epochs": 0, **config})


def test_without_epochs_of_the_head_it_is_promptfl():
    fed, promptfl = fedrep(head_epochs=0).run(COHORTS), tiny_federation("promptfl").run(COHORTS)
    for ours, theirs in zip(fed.contexts, promptfl.contexts, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)
    for i in ALL:
        assert not fed.privates[i]["head"].any()
        assert torch.allclose(fed.logits(i), promptfl.logits(i), atol=1e-5)


@READINGS
def test_without_epochs_of_the_representation_that_stays_as_it_was_and_only_heads_are_fitted(reading):
    fed = fedrep(reading, representation_epochs=0)
    start = fed.server.state
    fed.run([ALL, ALL])
    for name, tensor in fed.server.state.items():
        assert torch.allclose(tensor, start[name], atol=1e-6)
    upload = fed.clients[0].train(3, fed.privates[0], fed.download(0)).upload
    assert equal(upload.tensors, fed.download(0).tensors)  # nothing moved it, weight decay neither
    assert not torch.equal(fed.privates[0]["head"], fed.privates[1]["head"])


@READINGS
def test_at_the_start_it_predicts_as_its_prompt_or_template(reading):
    fed = fedrep(reading)
    text = fed.server.state["text"] if reading == "prompt" else fed.world.clip.zero_shot_text
    wanted = similarity_logits(fed.world, tiny_examples(fed.world, 8, seed=77).images.features, text)
    for i in ALL:
        assert torch.allclose(fed.logits(i), wanted, atol=1e-5)


@READINGS
def test_the_head_is_fitted_first_and_fixed_while_the_representation_learns(reading):
    """The head is the one that it is without the second phase, so the second phase leaves it as it is."""
    both, first = fedrep(reading).run([[1]]), fedrep(reading, representation_epochs=0).run([[1]])
    assert equal(both.privates[1], first.privates[1])
    assert both.privates[1]["head"].any()
    moved = both.server.state.items()
    assert any(not torch.equal(tensor, first.server.state[name]) for name, tensor in moved)


def test_one_step_of_each_phase_follows_the_formula_of_a_prompt():
    fed = fedrep(head_epochs=1, representation_epochs=1, head_weight=0.5, **ONE_STEP)
    config, clip, examples, start = fed.world.config, fed.world.clip, fed.examples(1), fed.server.state["context"]
    trained = fed.clients[1].train(1, fed.privates[1], fed.download(1))

    def loss(head, text):
        normed = F.normalize(text + 0.5 * head, dim=-1)
        return F.cross_entropy(clip.logit_scale * examples.images.features @ normed.T, examples.labels)

    head = torch.zeros_like(clip.zero_shot_text).requires_grad_()
    loss(head, fed.server.state["text"]).backward()
    stepped = -config.head_lr * head.grad
    assert torch.allclose(trained.private["head"], stepped, atol=1e-6)

    context = start.clone().requires_grad_()
    loss(stepped, encode_contexts(fed.world, context[None])[0]).backward()
    wanted = start - config.prompt_lr * (context.grad + 0.01 * start)
    assert torch.allclose(trained.upload.tensors["context"], wanted, atol=1e-6)
    assert context.grad.norm() > 1e-3


def test_one_step_of_each_phase_follows_the_formula_of_an_adapter():
    fed = fedrep("adapter", head_epochs=1, representation_epochs=1, **ONE_STEP)
    config, clip, examples, start = fed.world.config, fed.world.clip, fed.examples(1), fed.server.state
    trained = fed.clients[1].train(1, fed.privates[1], fed.download(1))
    features = examples.images.features

    def loss(head, bias, up):
        seen = F.normalize(features + F.relu(features @ start["adapter.down"].T) @ up.T, dim=-1)
        return F.cross_entropy(clip.logit_scale * seen @ (clip.zero_shot_text + head).T + bias, examples.labels)

    head, bias = torch.zeros_like(clip.zero_shot_text).requires_grad_(), torch.zeros(4).requires_grad_()
    loss(head, bias, torch.zeros_like(start["adapter.up"])).backward()
    assert torch.allclose(trained.private["head"], -config.head_lr * head.grad, atol=1e-6)
    assert torch.allclose(trained.private["bias"], -config.head_lr * bias.grad, atol=1e-6)
    up = torch.zeros_like(start["adapter.up"]).requires_grad_()
    loss(trained.private["head"], trained.private["bias"], up).backward()
    assert torch.allclose(trained.upload.tensors["adapter.up"], -config.adapter_lr * up.grad, atol=1e-6)
    assert up.grad.norm() > 1e-3


@READINGS
def test_the_representation_alone_travels_and_a_client_that_did_not_train_keeps_its_head(reading):
    fed = fedrep(reading)
    start = dict(fed.privates)
    fed.run([[0, 1], [0]])
    assert equal(fed.privates[2], start[2])
    upload = fed.clients[0].train(3, fed.privates[0], fed.download(0)).upload
    numbers = 3 * 16 if reading == "prompt" else 2 * 24 * 32 + 32 + 24 + 1
    assert upload.num_bytes == fed.download(0).num_bytes == 4 * numbers
    trained = numbers + sum(tensor.numel() for tensor in fed.privates[0].values())
    assert fed.method.trained_parameters(fed.world) == trained


@READINGS
def test_after_the_last_round_alone_every_client_fits_its_head(reading):
    fed = fedrep(reading, final_epochs=3).run([[0, 1]])

    def personal(client, round_index):
        task = tiny_task(fed.world, fed.privates[client], fed.download(client), fed.examples(client))
        private = run_alone(fed.world, fed.method.personalize(replace(task, round=round_index)), "personalize")
        return private, lambda head: F.cross_entropy(
            fed.method.predict(replace(task, private=head), task.train.images), task.train.labels
        )

    for client in (0, 3):
        (earlier, _), (last, loss) = personal(client, 2), personal(client, 3)
        assert equal(earlier, fed.privates[client])
        assert loss(last) < loss(earlier) - 1e-3


def test_absent_classes_keep_their_rows_where_only_present_ones_are_trained():
    def head(**config):
        fed = fedrep(weight_decay=0.0, **config)
        two = tiny_examples(fed.world, 12)
        two = two[two.labels < 2]
        task = tiny_task(fed.world, fed.privates[0], fed.download(0), two)
        return run_alone(fed.world, fed.method.local_update(task)).private["head"]

    assert not head(present_classes=True)[2:].any()
    assert head(present_classes=True)[:2].any()
    assert head()[2:].any()


def test_clients_count_by_their_examples_or_equally():
    for weighting, weights in (("examples", [6 / 16, 10 / 16]), ("equal", [0.5, 0.5])):
        fed = fedrep(weighting=weighting)
        sent = [fed.clients[i].train(1, fed.privates[i], fed.download(i)).upload.tensors["context"] for i in (0, 2)]
        fed.run([[0, 2]])
        wanted = weights[0] * sent[0] + weights[1] * sent[1]
        assert torch.allclose(fed.server.state["context"], wanted, atol=1e-6)


@pytest.mark.parametrize(
    "option",
    [{"head_epochs": 1}, {"representation_epochs": 1}, {"head_lr": 0.1}, {"head_weight": 0.3}, {"prompt_lr": 0.1}],
    ids=str,
)
def test_an_option_changes_the_result(option):
    logits = [fedrep(**config).run([[0]]).logits(0) for config in ({}, option)]
    assert not torch.allclose(*logits, atol=1e-4)


@pytest.mark.parametrize("option", [{"adapter_lr": 0.1}, {"adapter_width": 8}, {"head_weight": 0.3}], ids=str)
def test_an_option_of_an_adapter_changes_the_result(option):
    logits = [fedrep("adapter", **config).run([[0]]).logits(0) for config in ({}, option)]
    assert not torch.allclose(*logits, atol=1e-4)


def test_a_representation_that_there_is_not_is_named():
    with pytest.raises(ConfigError, match="representation: got 'head', should be 'prompt' or 'adapter'"):
        federation_config({"method": "fedrep", "representation": "head"})
