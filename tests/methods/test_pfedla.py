from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from promptfleet.errors import ConfigError
from promptfleet.methods import config_class
from promptfleet.methods.fedotp import FedOTP
from promptfleet.methods.parts.channel_attention import seen
from promptfleet.methods.parts.states import unprefixed
from promptfleet.methods.pfedla import HybridAttention, LocalAttention
from promptfleet.methods.zero_shot import ZeroShot
from tests.fakes import tiny_examples, tiny_task
from tests.tiny_federation import ALL, equal, tiny_federation

COHORTS = [ALL, [0, 2]]
HERE = "promptfleet.methods.pfedla"
OVER = {  # plug-in -> the method below it
    "pfedla": "promptfl",
    f"{HERE}:PFedLAHybrid": "promptfl",
    f"{HERE}:PFedLAonFedPGP": "fedpgp",
    f"{HERE}:PFedLAonPFedMoAP": "pfedmoap",
}


def pfedla(name="pfedla", **config):
    return tiny_federation(name, **{"attention_reduction": 4, "attention_lr": 0.5, **config})


def attention(fed, client):
    return unprefixed("attention.", fed.privates[client])


def features(fed, client, images):
    return fed.method.features(tiny_task(fed.world, fed.privates[client], fed.download(client)), images)


@pytest.mark.parametrize("name", OVER)
def test_at_the_start_features_are_the_images_own(name):
    fed = pfedla(name)
    images = tiny_examples(fed.world, 8, seed=77).images
    assert torch.allclose(features(fed, 0, images), images.features, atol=1e-6)


@pytest.mark.parametrize(("name", "below"), OVER.items())
def test_without_a_learning_rate_it_is_the_method_below(name, below):
    prompt_lr = config_class(name)(method=name).prompt_lr
    assert prompt_lr == config_class(below)(method=below).prompt_lr
    fed, plain = pfedla(name, attention_lr=0.0).run(COHORTS), tiny_federation(below).run(COHORTS)
    for ours, theirs in zip(fed.contexts, plain.contexts, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
    for i in ALL:
        assert torch.allclose(fed.logits(i), plain.logits(i), atol=1e-3)


@pytest.mark.parametrize(("name", "below"), OVER.items())
def test_messages_are_those_of_the_method_below_and_attention_is_private(name, below):
    fed, plain = pfedla(name).run(COHORTS), tiny_federation(below).run(COHORTS)
    for i in ALL:
        ours, theirs = fed.download(i), plain.download(i)
        assert {key: one.shape for key, one in ours.tensors.items()} == {
            k: one.shape for k, one in theirs.tensors.items()
        }
    assert fed.method.uploads(fed.world) == plain.method.uploads(plain.world)
    assert fed.server.state.keys() == plain.server.state.keys()
    own = attention(fed, 0)
    assert own["up"].any()
    assert not torch.equal(own["up"], attention(fed, 1)["up"])
    numbers = sum(tensor.numel() for tensor in own.values())
    assert fed.method.trained_parameters(fed.world) == plain.method.trained_parameters(plain.world) + numbers


def test_a_client_that_did_not_train_keeps_the_identity():
    fed = pfedla()
    start = dict(fed.privates)
    fed.run([[0, 1]])
    assert equal(fed.privates[2], start[2])
    assert not equal(fed.privates[0], start[0])


@pytest.mark.parametrize("name", OVER)
def test_swapping_attention_swaps_what_clients_predict_with(name):
    fed = pfedla(name).run([ALL])
    images = tiny_examples(fed.world, 8, seed=77).images
    first, second = (features(fed, i, images) for i in (0, 1))
    assert not torch.allclose(first, second, atol=1e-4)
    own = {i: {f"attention.{key}": one for key, one in attention(fed, i).items()} for i in (0, 1)}
    for i in (0, 1):
        fed.privates[i] = {**fed.privates[i], **own[1 - i]}
    assert torch.equal(features(fed, 0, images), second)
    assert torch.equal(features(fed, 1, images), first)


def test_one_step_follows_the_gradient_of_the_single_module():
    fed = pfedla(local_epochs=1, batch_size=100, shuffle=False, momentum=0.0, attention_decay=0.1)
    own, examples, clip = attention(fed, 1), fed.examples(1), fed.world.clip
    own = {**own, "up": torch.randn(own["up"].shape, generator=torch.Generator().manual_seed(0))}
    private = {**fed.privates[1], "attention.up": own["up"]}
    trained = unprefixed("attention.", fed.clients[1].train(1, private, fed.download(1)).private)

    leaves = {key: one.clone().requires_grad_() for key, one in own.items()}
    f = examples.images.features
    weights = 2 * torch.sigmoid(F.relu(f @ leaves["down"].T + leaves["down_bias"]) @ leaves["up"].T + leaves["up_bias"])
    logits = clip.logit_scale * F.normalize(weights * f, dim=-1) @ fed.server.state["text"].T
    F.cross_entropy(logits, examples.labels).backward()
    for key, leaf in leaves.items():
        decay = 0.1 * own[key] if key in ("up", "up_bias") else 0.0
        assert torch.allclose(trained[key], own[key] - 0.5 * (leaf.grad + decay), atol=1e-5), key
        assert leaf.grad.norm() > 1e-5


def test_the_order_of_patches_does_not_matter_and_the_weights_of_equal_scores_are_a_mean():
    fed = pfedla(f"{HERE}:PFedLAHybrid").run([ALL])
    images = tiny_examples(fed.world, 8, seed=77).images
    assert attention(fed, 0)["gate"].any()
    turned = replace(images, patches=images.patches[:, [3, 1, 4, 0, 2]])
    assert torch.allclose(features(fed, 0, turned), features(fed, 0, images), atol=1e-5)
    own = {**attention(fed, 0), "scorer": torch.zeros(24), "gate": torch.tensor(2.0)}
    assert torch.allclose(seen(own, images.patches), 2 * images.patches.mean(dim=1), atol=1e-5)


@pytest.mark.parametrize(
    "option",
    [
        {"attention_lr": 0.1},
        {"attention_decay": 0.5},
        {"attention_reduction": 8},
        {"attention_dropout": 0.5},
        {"attention_order": "first"},
    ],
    ids=str,
)
def test_an_option_changes_the_result(option):
    logits = [pfedla(**config).run([[0]]).logits(0) for config in ({}, option)]
    assert not torch.allclose(*logits, atol=1e-4)


@pytest.mark.parametrize("name", ["pfedla", f"{HERE}:PFedLAonPFedMoAP"])
def test_attention_may_be_trained_first_while_the_method_below_stands_still(name):
    one_epoch = {"local_epochs": 1, "batch_size": 100, "shuffle": False, "momentum": 0.0}
    fed = pfedla(name, attention_order="first", **one_epoch)
    together = pfedla(name, **one_epoch)
    fed.run([[1]])
    assert equal(attention(together.run([[1]]), 1), attention(fed, 1))  # its gradient is at the downloaded prompt
    fixed = pfedla(name, attention_lr=0.0, **one_epoch)
    fixed.privates[1] |= {f"attention.{key}": tensor for key, tensor in attention(fed, 1).items()}
    assert torch.equal(fixed.run([[1]]).contexts[0], fed.contexts[0])  # the second phase has the attention of the first


def test_dropout_leaves_channels_as_they_are_in_training_alone():
    fed = pfedla(attention_dropout=0.25)
    images = tiny_examples(fed.world, 200, seed=77).images
    own = {**fed.privates[0], "attention.up_bias": torch.ones(24)}
    whole = fed.method.features(tiny_task(fed.world, own, fed.download(0)), images)
    assert torch.allclose(whole, images.features, atol=1e-5)  # all channels weigh the same
    trained = {key: tensor.requires_grad_() for key, tensor in own.items()}
    dropped = fed.method.features(tiny_task(fed.world, trained, fed.download(0)), images) / images.features
    ratios = dropped / dropped.amin(dim=1, keepdim=True)
    weight = 2 * torch.sigmoid(torch.tensor(1.0))
    both = torch.isclose(ratios, torch.ones(()), atol=1e-3) | torch.isclose(ratios, 1 + (weight - 1) / 0.75, atol=1e-3)
    assert both.all()
    assert (ratios > 1.1).float().mean() == pytest.approx(0.75, abs=0.02)


class HybridOnFedOTP(HybridAttention, FedOTP):
    pass


class OnZeroShot(LocalAttention, ZeroShot):
    pass


def test_a_method_that_it_cannot_wrap_and_too_few_channels_are_refused():
    fed = pfedla()
    with pytest.raises(ConfigError, match="compares others; put LocalAttention over it"):
        HybridOnFedOTP().check(fed.world)
    with pytest.raises(ConfigError, match="below it, which trains nothing; put it over one that trains"):
        OnZeroShot().check(fed.world)
    with pytest.raises(ConfigError, match="attention_reduction=25 exceeds the 24 channels of an image"):
        fed.method.check(pfedla(attention_reduction=25).world)
