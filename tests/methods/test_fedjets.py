from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from promptfleet.errors import ConfigError
from promptfleet.federation.conditions.privacy import check_noise_hides
from promptfleet.methods.fedjets import FedJETsConfig
from promptfleet.methods.parts.anchors import with_anchors
from promptfleet.methods.parts.gates import gate_tensors
from promptfleet.methods.parts.hidden_gate import gate_logits
from promptfleet.methods.parts.prompts import encode_frozen, similarity_logits
from promptfleet.methods.parts.side_by_side import run_alone
from tests.fakes import tiny_examples, tiny_task
from tests.tiny_federation import ALL, equal, tiny_federation

PROMPT = 4 * 3 * 16  # bytes of a prompt of 3 tokens of width 16


def fedjets(**config):
    return tiny_federation("fedjets", **{"local_epochs": 1, "server_experts": 4, "gate_hidden": 8, **config})


def trained(fed, client):
    return fed.clients[client].train(len(fed.history) + 1, fed.privates[client], fed.download(client))


def task_of(fed, client, **state):
    download = fed.download(client)
    download = replace(download, tensors={**download.tensors, **state})
    task = tiny_task(fed.world, {}, download, fed.examples(client))
    return replace(task, private=fed.method.personalize(task))


@pytest.mark.parametrize("anchors", ["labels", "none"])
def test_one_expert_is_promptfl_bit_for_bit(anchors):
    fed = fedjets(server_experts=1, experts=1, anchors=anchors).run([ALL, [0, 2], ALL])
    promptfl = tiny_federation("promptfl", local_epochs=1).run([ALL, [0, 2], ALL])
    for ours, theirs in zip(fed.history, promptfl.history, strict=True):
        assert torch.equal(ours["experts"][0], theirs["context"])
        assert torch.equal(ours["text"][0], theirs["text"])
    for client in ALL:
        assert torch.equal(fed.logits(client), promptfl.logits(client))


def test_a_client_fetches_the_experts_that_the_gate_prefers_for_its_images_and_sends_them_alone():
    fed = fedjets(anchors="none").run([ALL])
    task = task_of(fed, 1)
    weights = torch.softmax(gate_logits(task.download.tensors, task.train.images.features), dim=1)
    wanted = weights.sum(dim=0).topk(2).indices
    update = run_alone(fed.world, fed.method.local_update(task))
    assert torch.equal(update.upload.tensors["ids"], wanted)
    assert torch.equal(update.fetched["experts"], fed.server.state["experts"][wanted])
    assert all(
        not torch.equal(*pair) for pair in zip(update.upload.tensors["experts"], update.fetched["experts"], strict=True)
    )
    equally = {name: torch.zeros_like(tensor) for name, tensor in gate_tensors(fed.server.state).items()}
    assert task_of(fed, 1, **equally).private["ids"].tolist() == [0, 1]  # ties by id


def test_a_round_downloads_the_gate_and_the_fetched_experts_alone():
    for experts, server_experts in ((1, 4), (2, 4), (2, 6)):
        fed = fedjets(experts=experts, server_experts=server_experts, anchors="none")
        gate = 4 * (8 * 24 + 8 + server_experts * 8 + server_experts)
        report = trained(fed, 0).report
        assert report.downloaded_bytes == gate + experts * PROMPT
        assert report.uploaded_bytes == gate + experts * (PROMPT + 8)
        assert fed.method.trained_parameters(fed.world) == (gate + experts * PROMPT) // 4
    fed = fedjets().run([ALL])
    anchor, other = int(fed.server.state["anchors"][0]), fed.server.state["anchors"].tolist()
    other = next(client for client in ALL if client not in other)
    assert trained(fed, other).report.downloaded_bytes - trained(fed, anchor).report.downloaded_bytes == PROMPT


def test_an_expert_is_the_average_of_those_who_trained_it_and_others_stay_as_they_are():
    fed = fedjets(anchors="none", server_experts=6, experts=1)
    up = torch.zeros_like(fed.server.state["gate.up_bias"])
    fed.server.load({**fed.server.state, "gate.up_bias": up.index_fill(0, torch.tensor([2]), 50.0)})
    before, uploads = fed.server.state, {client: trained(fed, client).upload.tensors for client in (1, 3)}
    fed.run([[1, 3]])
    after, counts = fed.server.state, {1: 8, 3: 12}
    assert all(one["ids"].tolist() == [2] for one in uploads.values())
    mean = sum(counts[client] * uploads[client]["experts"][0] for client in counts) / 20
    assert torch.allclose(after["experts"][2], mean, atol=1e-6)
    assert torch.allclose(after["text"][2], encode_frozen(fed.world, mean), atol=1e-5)
    gate = sum(counts[client] * uploads[client]["gate.up"] for client in counts) / 20
    assert torch.allclose(after["gate.up"], gate, atol=1e-6)
    for expert in (0, 1, 3, 4, 5):
        assert torch.equal(after["experts"][expert], before["experts"][expert])
        assert torch.equal(after["text"][expert], before["text"][expert])
    alone = trained(fed, 0).upload.tensors["experts"][0]
    assert torch.equal(fed.run([[0]]).server.state["experts"][2], alone)


def test_an_anchor_trains_its_expert_and_teaches_the_gate_its_id():
    fed = fedjets(batch_size=100, momentum=0.0, weight_decay=0.0, gate_lr=0.1).run([ALL])
    client = int(fed.server.state["anchors"][1])
    task = task_of(fed, client)
    assert task.download.tensors["anchor_of"] == 1
    update = run_alone(fed.world, fed.method.local_update(task))
    sent, features = update.upload.tensors, task.train.images.features
    assert sent["ids"].tolist() == [1]
    wanted = torch.ones(len(features), dtype=torch.int64)
    before, after = (F.cross_entropy(gate_logits(gate, features), wanted) for gate in (task.download.tensors, sent))
    assert after < before
    other_gate = {name: -tensor for name, tensor in gate_tensors(task.download.tensors).items()}
    moved = run_alone(fed.world, fed.method.local_update(task_of(fed, client, **other_gate))).upload.tensors
    assert torch.equal(moved["experts"], sent["experts"])
    assert not torch.allclose(moved["gate.up"], -sent["gate.up"])
    experts = {**task.download.attached, "experts": -task.download.attached["experts"]}
    moved = run_alone(
        fed.world, fed.method.local_update(replace(task, download=replace(task.download, attached=experts), rng=rng()))
    ).upload.tensors
    assert torch.equal(moved["gate.up"], sent["gate.up"])
    assert not torch.allclose(moved["experts"], sent["experts"], atol=1e-3)


def rng():
    return np.random.default_rng(0)


def test_the_mixture_weighs_the_picked_experts_and_all_equally_with_a_gate_without_preference():
    fed = fedjets(anchors="none", experts=4)
    task, images = task_of(fed, 0), tiny_examples(fed.world, 8, seed=77).images
    text, gate = fed.server.state["text"], gate_tensors(fed.server.state)
    each = torch.stack([similarity_logits(fed.world, images.features, one) for one in text])
    equally = {name: torch.zeros_like(tensor) for name, tensor in gate.items()}
    assert torch.allclose(fed.method.mixture(task, equally, torch.arange(4), text, images), each.mean(dim=0), atol=1e-5)
    ids = torch.tensor([3, 1])
    weights = torch.softmax(gate_logits(gate, images.features), dim=1)[:, ids]
    weights = weights / weights.sum(dim=1, keepdim=True)
    wanted = torch.einsum("bk,kbc->bc", weights, each[ids])
    assert torch.allclose(fed.method.mixture(task, gate, ids, text[ids], images), wanted, atol=1e-4)


def test_an_image_is_predicted_by_the_picked_expert_that_the_gate_prefers():
    fed = fedjets(anchors="none", gate_lr=0.5).run([ALL])
    task, images = task_of(fed, 2), tiny_examples(fed.world, 8, seed=77).images
    ids = task.private["ids"]
    best = ids[gate_logits(task.download.tensors, images.features)[:, ids].argmax(dim=1)]
    text = fed.server.state["text"]
    wanted = [similarity_logits(fed.world, images.features[i : i + 1], text[one])[0] for i, one in enumerate(best)]
    assert torch.allclose(fed.method.predict(task, images), torch.stack(wanted), atol=1e-5)
    described = fed.method.describe(task, images)
    assert described["expert_shares"].tolist() == [float((best == expert).float().mean()) for expert in range(4)]
    everything = replace(task, private=fed.method.server_model(task))
    assert everything.private["ids"].tolist() == [0, 1, 2, 3]
    assert fed.method.predict(everything, images).shape == (8, 4)


def test_anchors_are_clients_of_different_classes_for_half_of_the_clients_and_stay():
    none = torch.tensor([-1, -1, -1])
    counts = torch.tensor([[9, 0, 0], [8, 1, 0], [0, 0, 7], [4, 3, 4], [0, 0, 0], [0, 5, 0]])
    assert with_anchors(none, counts).tolist() == [2, 0, 5]
    assert with_anchors(torch.tensor([3, -1, -1]), counts).tolist()[0] == 3
    assert with_anchors(none, counts[:4]).tolist()[2] == -1
    assert with_anchors(none, torch.zeros_like(counts)).tolist() == [-1] * 3
    fed = fedjets().run([[0]])
    assert fed.server.state["anchors"].tolist() == [0, -1, -1, -1]
    labels = fed.examples(0).labels
    assert fed.server.state["counts"][0].tolist() == [int((labels == label).sum()) for label in range(4)]
    anchors = fed.run([ALL, ALL]).server.state["anchors"].tolist()
    assert anchors[0] == 0
    assert anchors[2:] == [-1, -1]
    assert anchors == fed.history[1]["anchors"].tolist()


def test_experts_start_differently_and_one_without_training_stays():
    fed = fedjets()
    assert len({tuple(expert.flatten().tolist()) for expert in fed.server.state["experts"]}) == 4
    state = dict(fed.server.state)
    fed.run([[0]])
    assert not equal(gate_tensors(fed.server.state), gate_tensors(state))
    assert sum(torch.equal(*pair) for pair in zip(fed.server.state["experts"], state["experts"], strict=True)) == 2


@pytest.mark.parametrize(
    "change",
    [{"server_experts": 5}, {"experts": 3}, {"gate_hidden": 9}, {"gate_lr": 0.2}, {"anchors": "none"}],
    ids=str,
)
def test_each_option_changes_the_result(change):
    logits = []
    for config in ({}, change):
        fed = fedjets(**config).run([ALL] * 2)
        logits.append(torch.cat([fed.logits(client) for client in ALL]))
    assert not torch.allclose(*logits, atol=1e-5)


def test_more_experts_than_the_server_has_are_refused_in_one_line():
    with pytest.raises(ConfigError) as error:
        FedJETsConfig(method="fedjets", experts=3, server_experts=2)
    wanted = "experts=3 must be at most server_experts=2: a client picks among the experts of the server"
    assert str(error.value).endswith(wanted)
    assert "\n" not in str(error.value)


def test_privacy_has_no_noise_for_ids():
    fed = fedjets(privacy={"epsilon": 8.0}, anchors="none")
    with pytest.raises(ConfigError, match=r"the method uploads ids of type torch\.int64"):
        check_noise_hides(fed.world.config, fed.method.uploads(fed.world))


def test_an_attack_reverses_the_step_from_the_fetched_experts():
    adversary = {"fraction": 0.25, "scale": 1.0}
    honest = fedjets(anchors="none")
    fed = fedjets(anchors="none", adversary=adversary)
    (attacker,) = [client for client in ALL if not equal(sent(fed, client), sent(honest, client))]
    start = fed.server.state["experts"][sent(fed, attacker)["ids"]]
    step = sent(honest, attacker)["experts"] - start
    assert torch.allclose(sent(fed, attacker)["experts"], start - step, atol=1e-6)


def sent(fed, client):
    return trained(fed, client).upload.tensors
