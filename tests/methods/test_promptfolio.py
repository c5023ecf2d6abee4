from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from promptfleet.clip.prompt_encoder import encode_prompts
from promptfleet.methods.parts.prompts import encode_frozen, similarity_logits
from tests.fakes import tiny_examples, tiny_task
from tests.tiny_federation import ALL, equal, tiny_federation

COHORTS = [ALL, [0, 2]]
ONE_STEP = {"local_epochs": 1, "batch_size": 100, "shuffle": False, "momentum": 0.0, "weight_decay": 0.01}


def test_without_the_local_prompt_it_is_promptfl_bit_for_bit():
    fed, promptfl = tiny_federation("promptfolio", local_share=0.0), tiny_federation("promptfl")
    fed.run(COHORTS)
    for ours, theirs in zip(fed.contexts, promptfl.run(COHORTS).contexts, strict=True):
        assert torch.equal(ours, theirs)
    for i in ALL:
        assert torch.equal(fed.logits(i), promptfl.logits(i))


def test_with_the_local_prompt_alone_it_is_coops_trajectory_and_the_global_prompt_only_decays():
    fed, coop = tiny_federation("promptfolio", local_share=1.0), tiny_federation("coop")
    start = fed.server.state["context"]
    for i in ALL:
        same = {name: fed.privates[i][name] for name in ("context", "text")}
        coop.privates[i] = {**coop.privates[i], **same, "participations": torch.tensor(1)}
    fed.run([ALL, ALL])
    coop.run([ALL, ALL])
    for i in ALL:
        assert torch.equal(fed.privates[i]["context"], coop.privates[i]["context"])
        assert torch.equal(fed.logits(i), coop.logits(i))
    decayed = fed.server.state["context"]
    assert torch.allclose(F.normalize(decayed, dim=-1), F.normalize(start, dim=-1), atol=1e-6)


def test_one_step_follows_the_gradient_of_the_formula():
    fed = tiny_federation("promptfolio", local_share=0.3, **ONE_STEP)
    config, clip, examples, start = fed.world.config, fed.world.clip, fed.examples(1), fed.privates[1]
    trained = fed.clients[1].train(1, start, fed.download(1))

    shared, own = (state["context"].clone().requires_grad_() for state in (fed.server.state, start))
    of_shared, of_own = (encode_prompts(clip.tower, clip.classes, p[None])[0] for p in (shared, own))
    mixed = 0.7 * of_shared + 0.3 * of_own
    assert mixed.norm(dim=-1).max() < 1 - 1e-4  # not normalized again
    loss = F.cross_entropy(clip.logit_scale * examples.images.features @ mixed.T, examples.labels)
    loss.backward()
    for leaf, stepped in ((shared, trained.upload.tensors["context"]), (own, trained.private["context"])):
        assert (stepped - leaf).norm() > 1e-5
        assert torch.allclose(stepped, leaf - config.prompt_lr * (leaf.grad + 0.01 * leaf), atol=1e-6)
    assert trained.report.metrics["loss"] == pytest.approx(loss.item(), abs=1e-5)


def test_prediction_mixes_the_current_global_prompt_and_the_clients_own():
    fed = tiny_federation("promptfolio", local_share=0.4).run([ALL, [0, 1]])
    features = tiny_examples(fed.world, 8, seed=77).images.features
    shared = encode_frozen(fed.world, fed.server.state["context"])
    for i in ALL:
        own = encode_frozen(fed.world, fed.privates[i]["context"])
        wanted = similarity_logits(fed.world, features, 0.6 * shared + 0.4 * own)
        assert torch.allclose(fed.logits(i), wanted, atol=1e-5)


def test_the_servers_model_is_the_global_prompt_alone():
    fed = tiny_federation("promptfolio", local_share=0.4).run([ALL])
    images = tiny_examples(fed.world, 8, seed=77).images
    task = tiny_task(fed.world, fed.privates[1], fed.download(1))
    logits = fed.method.predict(replace(task, private=fed.method.server_model(task)), images)
    wanted = similarity_logits(fed.world, images.features, encode_frozen(fed.world, fed.server.state["context"]))
    assert torch.allclose(logits, wanted, atol=1e-5)
    assert not torch.allclose(logits, fed.logits(1), atol=1e-3)


def test_the_local_prompt_stays_with_its_client_and_starts_differently_at_each():
    fed = tiny_federation("promptfolio")
    start = dict(fed.privates)
    assert not torch.equal(start[0]["context"], start[1]["context"])
    fed.run([[0, 1], [0]])
    assert equal(fed.privates[2], start[2])
    upload = fed.clients[0].train(3, fed.privates[0], fed.download(0)).upload
    assert upload.num_bytes == fed.download(0).num_bytes == 4 * 3 * 16  # one prompt of 3 tokens of width 16


def test_the_share_changes_the_result():
    logits = [tiny_federation("promptfolio", local_share=share).run([[0]]).logits(0) for share in (0.2, 0.5)]
    assert not torch.allclose(*logits, atol=1e-4)
