"""pFedMoAP against numbers that the published implementation produced."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from promptfleet.clip.prompt_encoder import encode_prompts
from promptfleet.clip.tokens import class_texts
from promptfleet.data.client_split import ClientSplit
from promptfleet.data.feature_store import FeatureStore
from promptfleet.federation.client import Client
from promptfleet.federation.server import Server
from promptfleet.methods.gate import reduce_width
from promptfleet.methods.pfedmoap import PFedMoAP, _mixture_logits
from promptfleet.methods.protocol import Images
from tests.parity import load_golden, relative_error


@pytest.fixture(scope="module")
def forward():
    return load_golden("forward")


@pytest.fixture(scope="module")
def trajectory():
    return load_golden("trajectory")


def test_tokens_are_those_of_the_published_prompts(forward):
    import open_clip

    golden, context_tokens = forward.tensors["tokenized_prompts"], int(forward.meta["n_ctx"])
    ours = open_clip.tokenize(class_texts(forward.world().class_names))
    for theirs, row in zip(golden, ours, strict=True):
        assert (
            theirs[1 + context_tokens :].tolist() == [*row[1:].tolist(), *[0] * context_tokens][: 76 - context_tokens]
        )


def test_text_features(forward):
    world = forward.world()
    contexts = torch.cat([forward.tensors["ctx"][None], forward.tensors["nonlocal_ctx"]])
    text = encode_prompts(world.clip.tower, world.clip.classes, contexts)
    assert torch.allclose(text[0], forward.tensors["text_features"], atol=1e-5)
    pooled = reduce_width(text[1:], world.config.gate_width)
    assert torch.allclose(pooled, forward.tensors["nonlocal_text_features_pooled"], atol=1e-5)


def test_image_features(forward):
    features = forward.image_features(forward.tensors["images"])
    assert torch.allclose(features, forward.tensors["image_features"], atol=1e-5)


def test_logits_loss_and_gradients(forward):
    world, golden = forward.world(), forward.tensors
    tower, classes = world.clip.tower, world.clip.classes
    images = Images(golden["image_features"])
    context = golden["ctx"].clone().requires_grad_()
    gate = {name: tensor.clone().requires_grad_() for name, tensor in forward.gate("gating").items()}
    experts = encode_prompts(tower, classes, golden["nonlocal_ctx"])
    text = encode_prompts(tower, classes, context[None])[0]

    alone = _mixture_logits(world, gate, images, text, experts[:0])
    assert torch.allclose(alone, golden["logits_local_only"], atol=1e-4)
    logits = _mixture_logits(world, gate, images, text, experts)
    assert torch.allclose(logits, golden["logits"], atol=1e-4)
    loss = F.cross_entropy(logits, golden["labels"])
    assert loss.item() == pytest.approx(float(golden["loss"]), abs=1e-4)

    loss.backward()
    assert relative_error(context.grad, golden["grad_ctx"]) < 1e-3
    for name, wanted in forward.gate("grad_gating").items():
        if wanted.norm() > 1e-6:
            assert relative_error(gate[name].grad, wanted) < 1e-3, name
        else:
            assert gate[name].grad.norm() < 1e-5, name


def test_whole_trajectory_through_client_and_server(trajectory):
    meta, golden = trajectory.meta, trajectory.tensors
    clients, rounds = int(meta["clients"]), int(meta["rounds"])
    world = trajectory.world(
        clients=clients,
        rounds=rounds,
        local_epochs=int(meta["local_epochs"]),
        batch_size=int(meta["batch_size"]),
        prompt_lr=float(meta["lr_prompt"]),
        gate_lr=float(meta["lr_gating"]),
        momentum=float(meta["momentum"]),
        weight_decay=float(meta["weight_decay"]),
        shuffle=False,
    )
    method = PFedMoAP()
    server = Server(method, world)
    server.state["context"] = golden["ctx_init"]
    members, privates, test_images = [], [], []
    for i in range(clients):
        train, test = (trajectory.image_features(golden[f"c{i}.{part}_images"]) for part in ("train", "test"))
        labels = torch.cat([golden[f"c{i}.train_labels"], golden[f"c{i}.test_labels"]]).numpy()
        store = FeatureStore(
            torch.cat([train, test]).numpy(), labels, np.full_like(labels, -1), np.full_like(labels, -1), {}
        )
        split = ClientSplit(np.arange(len(train)), np.arange(1), np.arange(len(train), len(labels)))
        members.append(Client(i, method, world, store, split))
        test_images.append(Images(test))
        gate = {f"gate.{name}": tensor for name, tensor in trajectory.gate("gate_init").items()}
        privates.append({**members[i].initial_state(), **gate})

    for round_index in range(1, rounds + 1):
        downloads = server.select(round_index, range(clients))
        uploads = {}
        for i, member in enumerate(members):
            key = f"r{round_index - 1}.c{i}"  # the golden rounds count from 0
            ids = downloads[i].attached["expert_ids"].tolist()
            assert ids == [j for j in golden[f"{key}.selected"].tolist() if j >= 0], key
            privates[i], uploads[i], report = member.train(round_index, privates[i], downloads[i])
            assert relative_error(privates[i]["context"], golden[f"{key}.ctx"]) < 1e-3, key
            assert report.metrics["last_loss"] == pytest.approx(float(golden[f"{key}.loss_last"]), abs=1e-3)
            logits = method.predict(world, privates[i], downloads[i], test_images[i])
            assert torch.allclose(logits, golden[f"{key}.test_logits"], atol=2e-3), key
        assert server.aggregate(round_index, uploads) == {}
        assert relative_error(server.state["context"], golden[f"r{round_index - 1}.global_ctx"]) < 1e-3

    for i in range(clients):
        for name, wanted in trajectory.gate(f"c{i}.gate_final").items():
            assert relative_error(privates[i][f"gate.{name}"], wanted) < 1e-3, (i, name)
