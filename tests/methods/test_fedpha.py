from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from promptfleet.clip.plain_encoder import encode_prompts_plainly
from promptfleet.errors import ConfigError
from promptfleet.federation.client import train_together
from promptfleet.methods.fedpha import FedPHAConfig, projected
from promptfleet.methods.parts.prompts import encode_frozen, similarity_logits
from tests.fakes import tiny_examples
from tests.tiny_federation import ALL, equal, tiny_federation

ONE_STEP = {"local_epochs": 1, "batch_size": 100, "shuffle": False, "momentum": 0.0, "weight_decay": 0.01}
TWO_LENGTHS = {"local_length_min": 2, "local_length_max": 5}  # the global prompt has 3


def lengths(fed):
    return [fed.privates[i]["context"].shape[-2] for i in ALL]


def test_the_projection_is_onto_the_trailing_vectors_of_a_full_v():
    generator = torch.Generator().manual_seed(0)
    local, shared = (torch.randn(rows, 16, generator=generator, dtype=torch.float64) for rows in (7, 5))
    _, _, full = torch.linalg.svd(shared, full_matrices=True)
    for ratio, first in ((1.0, 0), (0.8, 1), (0.5, 2), (0.0, 5)):
        kept = full[first:]
        assert torch.allclose(projected(local, shared, ratio), local @ kept.T @ kept, atol=1e-12)
    assert torch.allclose(projected(shared, shared, 0.0), torch.zeros_like(shared), atol=1e-12)


def test_clients_have_prompts_of_their_own_lengths_and_the_server_of_one():
    fed = tiny_federation("fedpha", **TWO_LENGTHS)
    before = lengths(fed)
    assert len(set(before)) > 1
    assert {2, 3, 4, 5} >= set(before)
    fed.run([ALL])
    assert lengths(fed) == before
    upload = fed.clients[0].train(2, fed.privates[0], fed.download(0)).upload
    assert upload.num_bytes == fed.download(0).num_bytes == 4 * 3 * 16
    assert fed.method.trained_parameters(fed.world) == (3 + 5) * 16


@pytest.mark.parametrize("length", [2, 5])
def test_one_step_follows_the_gradient_of_the_formula_with_texts_of_77_tokens(length):
    options = {"push_margin": 1.5, "push_weight": 0.6, "pull_weight": 30.0, "projection_ratio": 0.3}
    fed = tiny_federation("fedpha", local_length_min=length, local_length_max=length, **options, **ONE_STEP)
    config, clip, examples, start = fed.world.config, fed.world.clip, fed.examples(1), fed.privates[1]
    trained = fed.clients[1].train(1, start, fed.download(1))

    shared, own = (state["context"].clone().requires_grad_() for state in (fed.server.state, start))
    kept = torch.linalg.svd(shared.detach(), full_matrices=True)[2][2:]
    texts = [encode_prompts_plainly(clip.tower, clip.classes, p[None])[0] for p in (own, own @ kept.T @ kept, shared)]
    of_own, of_projected, of_shared = texts
    features = clip.logit_scale * examples.images.features
    loss = F.cross_entropy(features @ of_own.T, examples.labels) + F.cross_entropy(
        features @ of_shared.T, examples.labels
    )
    loss = loss + 30.0 * ((of_own - of_projected) ** 2).mean()
    loss = loss + 0.6 * (1.5 - (of_own - of_shared).norm(dim=-1)).clamp(min=0).mean()
    loss.backward()
    for leaf, stepped in ((shared, trained.upload.tensors["context"]), (own, trained.private["context"])):
        assert (stepped - leaf).norm() > 1e-5
        assert torch.allclose(stepped, leaf - config.prompt_lr * (leaf.grad + 0.01 * leaf), atol=1e-5)
    assert trained.report.metrics["loss"] == pytest.approx(loss.item(), abs=1e-4)


@pytest.mark.parametrize("options", [{}, {"class_token_position": "middle"}, {"class_specific_context": True}], ids=str)
def test_clients_with_prompts_of_several_lengths_get_the_same_bits_together_as_alone(options):
    fed = tiny_federation("fedpha", **TWO_LENGTHS, **options, local_epochs=1)
    downloads = fed.server.select(1, ALL)
    together = train_together(list(fed.clients.values()), 1, fed.privates, downloads)
    for i in ALL:
        alone = fed.clients[i].train(1, fed.privates[i], downloads[i])
        assert equal(alone.private, together[i].private)
        assert equal(alone.upload.tensors, together[i].upload.tensors)
        assert not equal(alone.private, fed.privates[i])


def test_without_pull_and_push_it_is_promptfl_on_the_server_and_coop_on_the_clients():
    fed = tiny_federation("fedpha", local_length_min=3, local_length_max=3, pull_weight=0.0, push_weight=0.0)
    promptfl, coop = tiny_federation("promptfl"), tiny_federation("coop")
    for i in ALL:
        coop.privates[i] = {**coop.privates[i], **fed.privates[i], "participations": torch.tensor(1)}
    cohorts = [ALL, ALL]
    for ours, theirs in zip(fed.run(cohorts).contexts, promptfl.run(cohorts).contexts, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)
    coop.run(cohorts)
    for i in ALL:
        assert torch.allclose(fed.privates[i]["context"], coop.privates[i]["context"], atol=1e-6)


def test_a_client_predicts_with_its_own_prompt_and_before_it_trained_with_the_global_one():
    fed = tiny_federation("fedpha", **TWO_LENGTHS)
    start = dict(fed.privates)
    fed.run([[0, 1]])
    features = tiny_examples(fed.world, 8, seed=77).images.features
    for i in ALL:
        context = fed.privates[i]["context"] if i < 2 else fed.server.state["context"]
        wanted = similarity_logits(fed.world, features, encode_frozen(fed.world, context))
        assert torch.allclose(fed.logits(i), wanted, atol=1e-5)
    assert equal(fed.privates[3], start[3])


def test_lengths_that_cannot_be_are_refused_in_one_line():
    with pytest.raises(ConfigError, match="local_length_min=9 exceeds local_length_max=5"):
        FedPHAConfig(local_length_min=9, local_length_max=5)
    fed = tiny_federation("fedpha")
    world = replace(fed.world, config=fed.world.config.model_copy(update={"local_length_max": 80}))
    with pytest.raises(ConfigError, match=r"^local_length_max=80 does not fit: the text tower leaves room for \d+ tok"):
        fed.method.check(world)


@pytest.fixture(scope="module")
def usual_logits():
    return tiny_federation("fedpha", prompt_length=5).run([[0]]).logits(0)


@pytest.mark.parametrize(
    "option",
    [
        {"local_length_min": 10},
        {"local_length_max": 2},
        {"projection_ratio": 0.1},
        {"pull_weight": 20.0},
        {"push_weight": 3.0},
        {"push_margin": 0.01},
    ],
    ids=str,
)
def test_every_option_changes_the_result(usual_logits, option):
    assert not torch.allclose(
        tiny_federation("fedpha", **{"prompt_length": 5, **option}).run([[0]]).logits(0), usual_logits, atol=1e-5
    )
