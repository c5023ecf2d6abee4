import math

import pytest
import torch
import torch.nn.functional as F

from promptfleet.clip.prompt_encoder import encode_prompts
from promptfleet.errors import ConfigError
from promptfleet.methods import config_class
from promptfleet.methods.fedpgp import contrastive_loss
from promptfleet.methods.parts.prompts import encode_frozen, similarity_logits
from tests.fakes import tiny_examples
from tests.tiny_federation import ALL, equal, tiny_federation

COHORTS = [ALL, [0, 2]]
ONE_STEP = {"local_epochs": 1, "batch_size": 100, "shuffle": False, "momentum": 0.0, "weight_decay": 0.01}


def unit(*rows):
    return F.normalize(torch.tensor(rows, dtype=torch.float64), dim=-1)


def test_contrast_is_ln_2_where_the_personal_prompt_is_as_near_as_the_hand_written():
    general, same = unit([1.0, 2.0], [0.5, -1.0]), unit([2.0, 1.0], [1.0, 1.0])
    assert float(contrastive_loss(same, general, same, 0.5)) == pytest.approx(math.log(2), abs=1e-12)
    mirrored = unit([-0.4, 2.2], [1.0, 1.0])  # [2, 1] on the other side of [1, 2]: the same angle
    assert float(contrastive_loss(same, general, mirrored, 0.5)) == pytest.approx(math.log(2), abs=1e-12)


def test_contrast_by_hand():
    anchor, general = unit([1.0, 0.0], [1.0, 0.0]), unit([0.6, 0.8], [1.0, 0.0])
    personal = unit([0.6, 0.8], [0.0, 1.0])
    first = -math.log(math.exp(1.2) / (math.exp(1.2) + math.exp(2.0)))  # cosines 0.6 and 1 over 0.5
    second = -math.log(math.exp(2.0) / (math.exp(2.0) + math.exp(0.0)))
    assert float(contrastive_loss(anchor, general, personal, 0.5)) == pytest.approx((first + second) / 2, abs=1e-12)


def test_one_step_follows_the_gradient_of_the_formula():
    fed = tiny_federation("fedpgp", factor_rank=2, contrast_weight=0.7, contrast_temperature=0.3, **ONE_STEP)
    config, clip, examples, start = fed.world.config, fed.world.clip, fed.examples(1), fed.privates[1]
    trained = fed.clients[1].train(1, start, fed.download(1))

    names = ("shared", "left", "right")
    leaves = [fed.server.state["context"], start["left"], start["right"]]
    shared, left, right = leaves = [tensor.clone().requires_grad_() for tensor in leaves]
    personal, general = (encode_prompts(clip.tower, clip.classes, p[None])[0] for p in (shared + left @ right, shared))
    a = torch.exp(F.cosine_similarity(clip.zero_shot_text, general) / 0.3)
    b = torch.exp(F.cosine_similarity(general, personal) / 0.3)
    logits = clip.logit_scale * examples.images.features @ personal.T
    loss = F.cross_entropy(logits, examples.labels) - 0.7 * torch.log(a / (a + b)).mean()
    loss.backward()

    stepped = {**trained.private, "shared": trained.upload.tensors["context"]}
    for name, leaf in zip(names, leaves, strict=True):
        wanted = leaf - config.prompt_lr * (leaf.grad + 0.01 * leaf)
        assert (stepped[name] - leaf).norm() > 1e-5, name
        assert torch.allclose(stepped[name], wanted, atol=1e-6), name
    assert trained.report.metrics["loss"] == pytest.approx(loss.item(), abs=1e-5)


def test_without_factors_and_contrast_it_is_promptfl_bit_for_bit():
    fed, promptfl = tiny_federation("fedpgp", contrast_weight=0.0), tiny_federation("promptfl")
    nothing = {name: torch.zeros_like(tensor) for name, tensor in fed.privates[0].items()}
    fed.privates = dict.fromkeys(ALL, nothing)
    fed.run(COHORTS)
    for ours, theirs in zip(fed.contexts, promptfl.run(COHORTS).contexts, strict=True):
        assert torch.equal(ours, theirs)
    for i in ALL:
        assert equal(fed.privates[i], nothing)
        assert torch.equal(fed.logits(i), promptfl.logits(i))


def test_the_personal_part_has_the_rank_of_its_factors():
    fed = tiny_federation("fedpgp", factor_rank=2, prompt_length=6).run([[0]])
    for i in (0, 1):
        assert torch.linalg.matrix_rank(fed.privates[i]["left"].double() @ fed.privates[i]["right"].double()) == 2


def test_prediction_is_with_the_current_global_prompt_and_the_clients_own_part():
    fed = tiny_federation("fedpgp").run([ALL, [0, 1]])
    features = tiny_examples(fed.world, 8, seed=77).images.features
    logits = [fed.logits(i) for i in ALL]
    for i in ALL:
        own = fed.privates[i]["left"] @ fed.privates[i]["right"]
        text = encode_frozen(fed.world, fed.server.state["context"] + own)
        assert torch.equal(logits[i], similarity_logits(fed.world, features, text))
        assert all(not torch.equal(logits[i], logits[j]) for j in ALL if j != i)


def test_factors_stay_with_a_client_and_as_they_are_while_it_is_not_selected():
    fed = tiny_federation("fedpgp")
    start = dict(fed.privates)
    assert not torch.equal(start[0]["left"], start[1]["left"])
    fed.run([[0, 1], [0]])
    assert equal(fed.privates[2], start[2])
    assert not any(torch.equal(fed.privates[0][name], start[0][name]) for name in ("left", "right"))
    download = fed.download(0)
    upload = fed.clients[0].train(3, fed.privates[0], download).upload
    assert upload.num_bytes == download.num_bytes == 4 * 3 * 16  # one prompt of 3 tokens of width 16
    assert upload.attached == {}


@pytest.fixture(scope="module")
def usual_logits():
    return tiny_federation("fedpgp").run([[0]]).logits(0)


@pytest.mark.parametrize(
    "option", [{"factor_rank": 2}, {"contrast_weight": 0.1}, {"contrast_temperature": 1.0}], ids=str
)
def test_every_option_changes_the_result(usual_logits, option):
    logits = tiny_federation("fedpgp", **option).run([[0]]).logits(0)
    assert not torch.allclose(logits, usual_logits, atol=1e-5)


def test_the_private_part_has_at_most_the_rank_of_a_prompt():
    assert [config_class("fedpgp")(prompt_length=length).factor_rank for length in (1, 3, 8)] == [1, 3, 4]
    fed = tiny_federation("fedpgp", factor_rank=4)
    with pytest.raises(ConfigError, match=r"^factor_rank=4 exceeds .* at most 3 for 3 tokens of width 16$"):
        fed.method.check(fed.world)
