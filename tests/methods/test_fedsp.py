from dataclasses import replace

import pytest
import torch

from promptfleet.clip.shared_block import block_of, with_shared_block
from promptfleet.errors import ConfigError
from promptfleet.federation.client import train_together
from promptfleet.federation.server import Server
from promptfleet.methods import config_class, load_method
from promptfleet.methods.parts import side_by_side
from promptfleet.methods.parts.prompts import encode_frozen, similarity_logits
from promptfleet.methods.parts.side_by_side import run_alone
from promptfleet.methods.parts.states import unprefixed
from tests.fakes import tiny_clip, tiny_examples, tiny_task, tiny_world
from tests.tiny_federation import ALL, equal, tiny_federation

COHORTS = [ALL, [0, 2]]


def fedsp(**config):
    return tiny_federation("fedsp", **config)


def with_model(world, block):
    return replace(world, clip=replace(world.clip, tower=with_shared_block(world.clip.tower, block)))


def test_if_the_model_is_the_tower_it_is_promptfl():
    """The tiny tower has one layer, so its only block shared by all layers is the tower."""
    fed = fedsp(distillation_steps=0, model_epochs=0).run(COHORTS)
    promptfl = tiny_federation("promptfl").run(COHORTS)
    for ours, theirs in zip(fed.contexts, promptfl.contexts, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)
    for i in ALL:
        assert torch.allclose(fed.logits(i), promptfl.logits(i), atol=1e-5)


def test_models_that_clients_train_together_have_the_bits_of_those_trained_alone(monkeypatch):
    fed, sizes = fedsp(distillation_steps=1, local_epochs=1), []

    def counted(world, contexts, texts, lengths, encode=side_by_side.encode_contexts):
        sizes.append(len(contexts))
        return encode(world, contexts, texts, lengths)

    monkeypatch.setattr(side_by_side, "encode_contexts", counted)
    downloads = fed.server.select(1, ALL)
    together = train_together(list(fed.clients.values()), 1, fed.privates, downloads)
    assert max(sizes) == len(ALL)
    for i in ALL:
        alone = fed.clients[i].train(1, fed.privates[i], downloads[i])
        assert equal(alone.private, together[i].private)
        assert equal(alone.upload.tensors, together[i].upload.tensors)


def test_the_model_travels_once_and_then_prompts_alone():
    fed = fedsp()
    block = unprefixed("auxiliary.", fed.download(1).tensors)
    assert equal(block, unprefixed("auxiliary.", fed.server.state))
    fed.run(COHORTS)
    for client in ALL:
        assert fed.download(client).tensors.keys() == {"context"}
    upload = fed.clients[1].train(3, fed.privates[1], fed.download(1)).upload
    assert upload.tensors["context"].numel() == fed.world.config.prompt_length * fed.world.clip.tower.width
    assert upload.tensors.keys() == {"context"}


def test_a_client_that_was_not_reached_gets_the_model_the_next_time():
    fed = fedsp().run([[0, 1]])
    assert fed.server.state["reached"].tolist() == [True, True, False, False]
    assert fed.download(0).tensors.keys() == {"context"}
    assert unprefixed("auxiliary.", fed.download(3).tensors)


def test_no_tensor_of_the_tower_is_in_a_message():
    fed = fedsp(distillation_steps=1)
    tower = [tensor for tensor in fed.world.clip.tower.weights.values() if tensor.any()]
    for message in (fed.download(0), fed.clients[0].train(1, fed.privates[0], fed.download(0)).upload):
        for sent in message.tensors.values():
            assert not any(sent.shape == own.shape and torch.equal(sent, own) for own in tower)


def test_each_stage_leaves_the_other_s_part_bit_identical():
    no_prompt = fedsp(prompt_lr=1e-30)  # a learning rate of 0 is refused; this one moves nothing
    download = no_prompt.download(0)
    trained = no_prompt.clients[0].train(1, no_prompt.privates[0], download)
    assert torch.equal(trained.upload.tensors["context"], download.tensors["context"])
    no_model = fedsp(model_epochs=0)
    download = no_model.download(0)
    kept = no_model.clients[0].train(1, no_model.privates[0], download).private["model"]
    block = unprefixed("auxiliary.", download.tensors)
    assert torch.equal(kept, torch.cat([block[name].flatten() for name in sorted(block)]))
    assert not torch.equal(kept, trained.private["model"])


def test_the_prompt_is_trained_through_the_client_s_own_model():
    fed = fedsp(model_epochs=0, model_lr=0.1).run([[0]])
    moved = fedsp(model_epochs=2, model_lr=0.1).run([[0]])
    assert not torch.allclose(fed.server.state["context"], moved.server.state["context"], atol=1e-6)


def test_clients_predict_with_the_server_s_prompt_and_tower():
    fed = fedsp().run(COHORTS)
    text = encode_frozen(fed.world, fed.server.state["context"])
    features = tiny_examples(fed.world, 8, seed=77).images.features
    for i in ALL:
        assert torch.allclose(fed.logits(i), similarity_logits(fed.world, features, text), atol=1e-5)


@pytest.mark.parametrize("client", [0, 3])
def test_or_with_their_own_prompt_and_model(client):
    """Client 0 trained; client 3 never did, and has the distilled model with the server's prompt."""
    fed = fedsp(predict_with="client").run([[0, 1]])
    block = unprefixed("auxiliary.", fed.server.state)
    context = fed.server.state["context"]
    if client == 0:
        parts, like = [], block_of(fed.world.clip.tower, 0)
        parts = fed.privates[0]["model"].split([like[name].numel() for name in sorted(like)])
        block = {name: part.view_as(like[name]) for name, part in zip(sorted(like), parts, strict=True)}
        context = fed.privates[0]["context"]
    text = encode_frozen(with_model(fed.world, block), context)
    features = tiny_examples(fed.world, 8, seed=77).images.features
    assert torch.allclose(fed.logits(client), similarity_logits(fed.world, features, text), atol=1e-5)


def test_a_state_before_training_has_no_model():
    assert fedsp().privates[2]["model"].numel() == 0


def test_the_server_trains_the_average_on_public_images_through_its_tower():
    world = tiny_world(
        config_class=config_class("fedsp"), clip=tiny_clip(layers=1), method="fedsp", server_epochs=2,
        partition={"public_fraction": 0.2},
    )  # fmt: skip
    world = replace(world, public=tiny_examples(world, 12, seed=9))
    method, plain = load_method("fedsp"), fedsp().run([ALL])
    server = Server(method, world)
    uploads = {
        client: plain.clients[client].train(1, fedsp().privates[client], fedsp().download(client)) for client in ALL
    }
    server.aggregate(1, uploads)
    average, trained = plain.server.state["context"], server.state["context"]
    assert not torch.allclose(trained, average, atol=1e-6)

    def loss(context):
        logits = similarity_logits(world, world.public.images.features, encode_frozen(world, context))
        return torch.nn.functional.cross_entropy(logits, world.public.labels)

    assert loss(trained) < loss(average)
    assert torch.allclose(server.state["text"], encode_frozen(world, trained), atol=1e-6)


def test_other_class_names_go_through_the_model_that_the_client_predicts_with():
    fed = fedsp(predict_with="client").run([[0]])
    task = tiny_task(fed.world, fed.privates[0], fed.download(0))
    other = replace(fed.world, clip=fed.world.clip.take([1, 2]))
    reworded = run_alone(other, fed.method.reworded(task, other), "reworded")
    images = tiny_examples(fed.world, 8, seed=77).images
    wanted = fed.method.predict(task, images)[:, [1, 2]]
    assert torch.allclose(fed.method.predict(reworded, images), wanted, atol=1e-4)


def test_a_layer_that_does_not_exist_is_refused():
    world = tiny_world(config_class=config_class("fedsp"), clip=tiny_clip(layers=2), method="fedsp", auxiliary_layer=2)
    with pytest.raises(ConfigError, match="auxiliary_layer=2 does not exist: the text tower has layers 0 to 1"):
        load_method("fedsp").check(world)


@pytest.mark.parametrize("option", [{"model_lr": 0.1}, {"model_epochs": 3}, {"prompt_lr": 0.3}], ids=str)
def test_each_option_changes_the_result(option):
    assert not equal(fedsp().run([ALL]).server.state, fedsp(**option).run([ALL]).server.state)


@pytest.mark.parametrize(
    "option", [{"distillation_steps": 3}, {"distillation_lr": 0.1}, {"auxiliary_layer": 1}], ids=str
)
def test_each_option_of_distillation_changes_the_model(option):
    states = []
    for changed in ({}, option):
        world = tiny_world(
            config_class=config_class("fedsp"), clip=tiny_clip(layers=2), method="fedsp",
            **{"distillation_steps": 2, **changed},
        )  # fmt: skip
        states.append(unprefixed("auxiliary.", Server(load_method("fedsp"), world).state))
    assert not equal(*states)
