"""pFedMoAP on any device against the published implementation's numbers: the part that tests on CPU and GPU share."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from promptfleet.clip.prompt_encoder import encode_prompts
from promptfleet.data.client_split import ClientSplit
from promptfleet.data.feature_store import FeatureStore
from promptfleet.federation.client import Client
from promptfleet.federation.server import Server
from promptfleet.methods.pfedmoap import PFedMoAP
from promptfleet.methods.protocol import Images
from tests.fakes import tiny_task
from tests.parity import Golden, relative_error

Device = torch.device | str


def check_forward(forward: Golden, device: Device) -> None:
    """Compare logits, loss and gradients of one batch."""
    world = forward.pfedmoap_world().to(device)
    golden = {name: tensor.to(device) for name, tensor in forward.tensors.items()}
    tower, classes = world.clip.tower, world.clip.classes
    images = Images(golden["image_features"])
    context = golden["ctx"].clone().requires_grad_()
    gate = {name: tensor.clone().requires_grad_() for name, tensor in forward.gate("gating", device).items()}
    experts = encode_prompts(tower, classes, golden["nonlocal_ctx"])
    text = encode_prompts(tower, classes, context[None])[0]

    method, task = PFedMoAP(), tiny_task(world)
    alone = method.mixture_logits(task, gate, images, text, experts[:0])
    assert torch.allclose(alone, golden["logits_local_only"], atol=1e-4)
    logits = method.mixture_logits(task, gate, images, text, experts)
    assert torch.allclose(logits, golden["logits"], atol=1e-4)
    loss = F.cross_entropy(logits, golden["labels"])
    assert loss.item() == pytest.approx(float(golden["loss"]), abs=1e-4)

    loss.backward()
    assert relative_error(context.grad, golden["grad_ctx"]) < 1e-3
    for name, wanted in forward.gate("grad_gating", device).items():
        if wanted.norm() > 1e-6:
            assert relative_error(gate[name].grad, wanted) < 1e-3, name
        else:
            assert gate[name].grad.norm() < 1e-5, name


def check_trajectory(trajectory: Golden, device: Device) -> None:
    """Compare every round of a small federation through Client, on ``device``, and Server, on the CPU."""
    meta, golden = trajectory.meta, trajectory.tensors
    clients, rounds = int(meta["clients"]), int(meta["rounds"])
    world = trajectory.pfedmoap_world(
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
        members.append(Client(i, method, world.to(device), store, split))
        test_images.append(Images(test))
        privates.append({**members[i].initial_state(), **trajectory.gate("gate_init")})

    for round_index in range(1, rounds + 1):
        downloads = server.select(round_index, range(clients))
        uploads = {}
        for i, member in enumerate(members):
            key = f"r{round_index - 1}.c{i}"  # the golden rounds count from 0
            ids = downloads[i].attached["expert_ids"].tolist()
            assert ids == [j for j in golden[f"{key}.selected"].tolist() if j >= 0], key
            uploads[i] = member.train(round_index, privates[i], downloads[i])
            privates[i] = uploads[i].private
            assert relative_error(privates[i]["context"], golden[f"{key}.ctx"]) < 1e-3, key
            assert uploads[i].report.metrics["last_loss"] == pytest.approx(float(golden[f"{key}.loss_last"]), abs=1e-3)
            logits = method.predict(tiny_task(world, privates[i], downloads[i]), test_images[i])
            assert torch.allclose(logits, golden[f"{key}.test_logits"], atol=2e-3), key
        assert server.aggregate(round_index, uploads) == {}
        assert relative_error(server.state["context"], golden[f"r{round_index - 1}.global_ctx"]) < 1e-3

    for i in range(clients):
        for name, wanted in trajectory.gate(f"c{i}.gate_final").items():
            assert relative_error(privates[i][name], wanted) < 1e-3, (i, name)
