from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from promptfleet.methods.parts.channel_gate import gated
from promptfleet.methods.parts.states import unprefixed
from promptfleet.methods.protocol import Arrived, Message
from tests.fakes import tiny_examples, tiny_task
from tests.tiny_federation import ALL, equal, tiny_federation

OTHERS = {"partition": {"new_classes": 0.5}}


def fed_mp(**config):
    return tiny_federation("fed_mp", **{"adapter_lr": 0.01, **config})


def adapter_of(state):
    return unprefixed("adapter.", state)


def upload_of(fed, client, round_index=1):
    return fed.clients[client].train(round_index, fed.privates[client], fed.download(client)).upload.tensors


def test_with_equal_text_features_the_adapter_is_the_plain_mean():
    fed = fed_mp(residual_weight=0.0, class_weighting="mean")
    uploads = {client: upload_of(fed, client) for client in ALL}
    text = fed.world.clip.zero_shot_text
    alike = [client for client in ALL if len(uploads[client]["text"]) == len(text)]
    assert len(alike) >= 2
    fed.run([alike])
    for name, tensor in adapter_of(fed.server.state).items():
        wanted = torch.stack([uploads[client][f"adapter.{name}"] for client in alike]).mean(dim=0)
        assert torch.allclose(tensor, wanted, atol=1e-6)


@pytest.mark.parametrize("weighting", ["similarity", "softmax"])
def test_the_adapter_is_a_convex_combination(weighting):
    fed = fed_mp(weighting=weighting, residual_init="uniform")
    uploads = [upload_of(fed, client) for client in ALL]
    fed.run([ALL])
    for name, tensor in fed.server.state.items():
        sent = torch.stack([upload[name] for upload in uploads])
        assert (tensor >= sent.amin(dim=0) - 1e-6).all()
        assert (tensor <= sent.amax(dim=0) + 1e-6).all()


def test_weights_are_the_mean_nearness_to_the_query_classes():
    fed = fed_mp(residual_init="normal", residual_weight=5.0)
    uploads = [upload_of(fed, client) for client in ALL]
    fed.run([ALL])
    text = fed.world.clip.zero_shot_text
    nearness = torch.stack([(text @ upload["text"].T).mean() for upload in uploads]).clamp(min=0)
    shares = nearness / nearness.sum()
    for name, tensor in fed.server.state.items():
        sent = torch.stack([upload[name] for upload in uploads])
        assert torch.allclose(tensor, torch.tensordot(shares, sent, dims=1), atol=1e-5)


def test_an_upload_has_the_text_features_with_the_residual_and_never_the_residual():
    fed = fed_mp(residual_weight=0.3)
    trained = fed.clients[1].train(1, fed.privates[1], fed.download(1))
    classes = fed.examples(1).labels.unique()
    text, residual = fed.world.clip.zero_shot_text[classes], trained.private["residual"][classes]
    assert torch.allclose(trained.upload.tensors["text"], F.normalize(text + 0.3 * residual, dim=-1), atol=1e-6)
    assert trained.upload.tensors.keys() == {*fed.method.uploads(fed.world)}
    assert torch.allclose(upload_of(fed_mp(residual_weight=0.0), 1)["text"], text, atol=1e-6)


def test_before_training_it_is_zero_shot_clip_behind_the_adapter():
    fed = fed_mp(uncertainty=0.0)
    features = tiny_examples(fed.world, 8, seed=77).images.features
    adapted = gated(adapter_of(fed.server.state), features)
    wanted = fed.world.clip.logit_scale * adapted @ fed.world.clip.zero_shot_text.T
    assert torch.allclose(fed.logits(0), wanted, atol=1e-4)


def test_predictions_depend_on_the_images_before_them_unless_nothing_is_sure_enough():
    for level, changes in ((0.0, False), (1.0, True)):
        fed = fed_mp(uncertainty=level)
        images = tiny_examples(fed.world, 40, seed=3).images
        predict = fed.method.predictor(tiny_task(fed.world, fed.privates[0], fed.download(0)))
        first, again = predict(images), predict(images)
        assert torch.equal(first, again) is not changes


def test_the_adapter_for_other_classes_is_weighed_by_them():
    fed = fed_mp(residual_weight=5.0, **OTHERS).run([ALL])
    sent, download = unprefixed("sent.", fed.server.state), fed.server.select(1, [2], "evaluate")[2]
    text = fed.world.clip.zero_shot_text[:2]
    other = replace(fed.world, clip=replace(fed.world.clip, zero_shot_text=text))
    task = fed.method.reworded(tiny_task(fed.world, fed.privates[2], download), other)
    nearness = (sent["texts"] @ text.mean(dim=0)).clamp(min=0)
    assert nearness.sum() > 0
    wanted = torch.tensordot(nearness / nearness.sum(), sent["adapter.outer"], dims=1)
    assert torch.allclose(task.download.tensors["adapter.outer"], wanted, atol=1e-6)
    assert fed.method.predict(task, tiny_examples(fed.world, 8).images).shape == (8, 2)
    same = fed.method.reworded(tiny_task(fed.world, fed.privates[2], download), fed.world)
    assert all(
        torch.allclose(tensor, download.tensors[name], atol=1e-6) for name, tensor in same.download.tensors.items()
    )


def test_the_server_keeps_adapters_only_for_other_classes_and_sends_one_for_training():
    assert not unprefixed("sent.", fed_mp().run([ALL]).server.state)
    fed = fed_mp(**OTHERS).run([ALL])
    assert fed.download(0).tensors.keys() == {f"adapter.{name}" for name in adapter_of(fed.server.state)}


def test_residuals_move_for_the_clients_classes_alone_and_stay_with_it():
    fed = fed_mp()
    start = {client: fed.privates[client]["residual"].clone() for client in ALL}
    fed.run([[0]])
    classes = fed.examples(0).labels.unique()
    moved = (fed.privates[0]["residual"] != start[0]).any(dim=1)
    assert moved.nonzero().flatten().tolist() == classes.tolist()
    assert torch.equal(fed.privates[1]["residual"], start[1])


def test_residuals_that_are_not_kept_start_again():
    kept, fresh = (fed_mp(keep_residual=keep).run([ALL, ALL]) for keep in (True, False))
    assert not torch.equal(kept.privates[0]["residual"], fresh.privates[0]["residual"])
    start = fed_mp(keep_residual=False).privates[0]["residual"]
    assert torch.equal(fresh.privates[0]["start"], start)


@pytest.mark.parametrize(
    "option",
    [
        {"residual_init": "zeros"},
        {"residual_init": "uniform"},
        {"residual_weight": 1.0},
        {"adapter_decay": 0.0},
        {"adapter_lr": 0.02},
        {"adapter_loss": "pairs"},
        {"weighting": "softmax", "residual_weight": 5.0},
    ],
    ids=str,
)
def test_each_option_changes_the_result(option):
    weight = {"residual_weight": 5.0} if len(option) == 2 else {}
    assert not equal(fed_mp(**weight).run([ALL]).server.state, fed_mp(**option).run([ALL]).server.state)


def test_a_sum_over_classes_favours_clients_with_many():
    fed = fed_mp(class_weighting="sum", residual_weight=0.0)
    uploads = {client: Message(upload_of(fed, client)) for client in ALL}
    one_class = {**uploads[0].tensors, "text": uploads[0].tensors["text"][:1]}
    uploads[0] = Message(one_class)
    arrived = Arrived(fed.world, 1, uploads, dict.fromkeys(ALL, 1), np.random.default_rng(0))
    state = fed.method.aggregate(fed.server.state, arrived)
    query = fed.world.clip.zero_shot_text.mean(dim=0)
    nearness = torch.stack([(upload.tensors["text"] @ query).sum() for upload in uploads.values()])
    assert nearness[0] < nearness[1]
    sent = torch.stack([upload.tensors["adapter.inner"] for upload in uploads.values()])
    wanted = torch.tensordot(nearness / nearness.sum(), sent, dims=1)
    assert torch.allclose(state["adapter.inner"], wanted, atol=1e-5)
    assert not torch.allclose(state["adapter.inner"], sent.mean(dim=0), atol=1e-5)


def test_without_a_client_near_to_the_classes_examples_count():
    fed = fed_mp(residual_weight=0.0)
    uploads = {client: upload_of(fed, client) for client in ALL}
    away = {client: Message({**upload, "text": -upload["text"]}) for client, upload in uploads.items()}
    examples = {client: 1 + client for client in ALL}
    state = fed.method.aggregate({}, Arrived(fed.world, 1, away, examples, np.random.default_rng(0)))
    shares = torch.tensor([float(count) for count in examples.values()]) / sum(examples.values())
    sent = torch.stack([upload["adapter.inner"] for upload in uploads.values()])
    assert torch.allclose(state["adapter.inner"], torch.tensordot(shares, sent, dims=1), atol=1e-6)


def test_the_length_of_an_uploaded_text_feature_gives_no_weight():
    fed = fed_mp()
    uploads = {client: Message(upload_of(fed, client)) for client in ALL}
    long = {**uploads, 2: Message({**uploads[2].tensors, "text": 1000 * uploads[2].tensors["text"]})}
    states = [
        fed.method.aggregate({}, Arrived(fed.world, 1, sent, dict.fromkeys(ALL, 1), np.random.default_rng(0)))
        for sent in (uploads, long)
    ]
    assert all(torch.allclose(tensor, states[1][name], atol=1e-6) for name, tensor in states[0].items())
