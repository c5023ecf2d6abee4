from dataclasses import replace
from math import log

import numpy as np
import pytest
import torch

from promptfleet.clip.prompt_encoder import encode_prompts
from promptfleet.config import build
from promptfleet.errors import ConfigError
from promptfleet.methods import config_class
from promptfleet.methods.parts import sampled_prompts
from promptfleet.methods.parts.gaussian_residual import kl_to_prior, sampled_contexts
from promptfleet.methods.parts.side_by_side import run_alone
from promptfleet.methods.protocol import Message
from tests.fakes import tiny_arrived, tiny_examples, tiny_task
from tests.tiny_federation import ALL, equal, tiny_federation

COHORTS = [ALL, [0, 2]]
NAME = "bayesian_prompt"


def test_without_a_residual_it_is_promptfl_bit_for_bit():
    fed, promptfl = tiny_federation(NAME, prior_std=0.0, train_samples=1, test_samples=1), tiny_federation("promptfl")
    for ours, theirs in zip(fed.run(COHORTS).contexts, promptfl.run(COHORTS).contexts, strict=True):
        assert torch.equal(ours, theirs)
    for client in ALL:
        assert torch.equal(fed.logits(client), promptfl.logits(client).log_softmax(dim=-1))


def test_without_a_residual_the_number_of_samples_has_no_effect():
    one, three = (
        tiny_federation(NAME, prior_std=0.0, train_samples=samples, test_samples=samples).run(COHORTS)
        for samples in (1, 3)
    )
    assert torch.allclose(one.contexts[-1], three.contexts[-1], atol=1e-5)
    assert torch.allclose(one.logits(0), three.logits(0), atol=1e-4)


def test_one_step_follows_the_gradient_of_the_formula():
    fed = tiny_federation(
        NAME,
        local_epochs=1, batch_size=100, shuffle=False, momentum=0.0, weight_decay=0.0,
        train_samples=2, kl_weight=0.3, prior_std=0.1,
    )  # fmt: skip
    config, clip, examples, server = fed.world.config, fed.world.clip, fed.examples(1), fed.server.state
    upload = fed.clients[1].train(1, {}, fed.download(1)).upload.tensors

    context, mean, log_variance = leaves = [tensor.clone().requires_grad_() for tensor in server.values()]
    noise = fed.clients[1]._rng("local_update", 1).standard_normal((1, 2, 1, 16), dtype="float32")[0]
    residuals = 0.1 * (mean + (log_variance / 2).exp() * torch.from_numpy(noise))
    text = encode_prompts(clip.tower, clip.classes, context + residuals)
    probabilities = (clip.logit_scale * examples.images.features @ text.transpose(1, 2)).softmax(dim=-1).mean(dim=0)
    divergence = (log_variance.exp() + mean**2 - 1 - log_variance).mean() / 2
    loss = -probabilities[torch.arange(len(examples)), examples.labels].log().mean() + 0.3 * divergence
    loss.backward()
    for leaf, stepped in zip(leaves, upload.values(), strict=True):
        assert (stepped - leaf).norm() > 1e-6
        assert torch.allclose(stepped, leaf - config.prompt_lr * leaf.grad, atol=1e-6)


def test_a_prediction_is_the_mean_of_the_probabilities_of_the_samples():
    fed = tiny_federation(NAME, prior_std=0.5, test_samples=4).run(COHORTS)
    clip, images = fed.world.clip, tiny_examples(fed.world, 8, seed=77).images
    noise = torch.from_numpy(tiny_task(fed.world).to_predict().rng.standard_normal((4, 1, 16), dtype="float32"))
    contexts = sampled_contexts(fed.server.state["context"], fed.server.state, 0.5, noise).squeeze(1)
    text = encode_prompts(clip.tower, clip.classes, contexts)
    each = torch.log_softmax(clip.logit_scale * images.features @ text.transpose(1, 2), dim=-1)
    logits = fed.logits(0)
    assert torch.allclose(logits, each.exp().mean(dim=0).log(), atol=1e-5)
    assert torch.allclose(logits.exp().sum(dim=-1), torch.ones(8), atol=1e-5)
    assert (logits - each.mean(dim=0)).min() > 0  # Jensen
    assert torch.equal(fed.logits(0), logits)  # the noise of predictions is the same each time


def test_samples_are_encoded_once_for_all_evaluation_sets(monkeypatch):
    fed = tiny_federation(NAME, prior_std=0.5, test_samples=4)
    task = tiny_task(fed.world, {}, fed.download(0)).to_predict()
    images = tiny_examples(fed.world, 8, seed=77).images
    encoded_here = fed.method.predict(task, images)
    private = run_alone(fed.world, fed.method.personalize(task), "personalize")
    monkeypatch.setattr(sampled_prompts, "encode_contexts", None)
    assert torch.equal(fed.method.predict(replace(task, private=private), images), encoded_here)


def test_all_tokens_have_the_same_residual():
    state = {"context": torch.randn(3, 5), "mean": torch.randn(1, 5), "log_variance": torch.randn(1, 5)}
    residuals = sampled_contexts(state["context"], state, 0.2, torch.randn(4, 1, 5)) - state["context"]
    assert torch.allclose(residuals, residuals[:, :1].expand_as(residuals), atol=1e-6)
    assert not torch.allclose(residuals[0], residuals[1])


@pytest.mark.parametrize(("given", "used"), [(50.0, 2.0), (-50.0, -12.0)])
def test_samples_are_drawn_with_a_bounded_variance(given, used):
    state = {"context": torch.zeros(1, 1), "mean": torch.zeros(1, 1), "log_variance": torch.full((1, 1), given)}
    assert sampled_contexts(state["context"], state, 1.0, torch.ones(1, 1, 1)).log().item() == pytest.approx(used / 2)


def test_the_divergence_is_zero_at_the_prior_alone():
    zero = torch.zeros(1, 6)
    assert kl_to_prior({"mean": zero, "log_variance": zero}) == 0
    for mean, log_variance in ((0.1, 0.0), (0.0, 0.1), (0.0, -0.1), (-0.3, 1.0)):
        divergence = kl_to_prior({"mean": zero + mean, "log_variance": zero + log_variance})
        exact = torch.distributions.kl_divergence(
            torch.distributions.Normal(zero + mean, (zero + log_variance / 2).exp()),
            torch.distributions.Normal(zero, 1.0),
        ).mean()
        assert divergence > 0
        assert divergence.item() == pytest.approx(exact.item(), rel=1e-4)


def test_disagreement_of_clients_about_the_mean_is_variance_of_the_mixture():
    fed = tiny_federation(NAME, variance_average="moment")

    def log_variance(first, second):
        means = {0: first, 1: second}
        uploads = {
            client: Message({**fed.server.state, "mean": torch.full((1, 16), mean), "log_variance": torch.zeros(1, 16)})
            for client, mean in means.items()
        }
        arrived = tiny_arrived(fed.world, uploads, {0: 6, 1: 6})
        return fed.method.aggregate(fed.server.state, arrived)["log_variance"]

    assert torch.equal(log_variance(0.0, 0.0), torch.zeros(1, 16))
    assert torch.allclose(log_variance(0.5, -0.5), torch.full((1, 16), log(1.25)))


def test_a_private_posterior_stays_with_its_client_and_the_server_predicts_with_the_prior():
    fed = tiny_federation(NAME, posterior="private", prior_std=0.5)
    start = dict(fed.privates)
    assert not torch.equal(start[0]["log_variance"], start[1]["log_variance"])
    fed.run([[0, 1], [0]])
    assert equal(fed.privates[2], start[2])
    assert not torch.equal(fed.privates[0]["mean"], start[0]["mean"])
    upload = fed.clients[0].train(3, fed.privates[0], fed.download(0)).upload
    assert upload.num_bytes == fed.download(0).num_bytes == 4 * 3 * 16
    tasks = [tiny_task(fed.world, fed.privates[client], fed.download(client)) for client in (0, 1)]
    models = [fed.method.server_model(task) for task in tasks]
    assert equal(*models)
    assert not any(tensor.any() for tensor in models[0].values())


def test_messages_are_the_prompt_and_two_numbers_per_channel():
    fed = tiny_federation(NAME)
    upload = fed.clients[0].train(1, {}, fed.download(0)).upload
    assert upload.num_bytes == fed.download(0).num_bytes == 4 * (3 * 16 + 2 * 16)
    private = tiny_federation(NAME, posterior="private")
    for one in (fed, private):
        assert one.method.trained_parameters(one.world) == 3 * 16 + 2 * 16


def networks(state, name, features):
    """The published generator of a mean or a log-variance, layer by layer."""
    first, second, third = (
        (lambda x, at=at: torch.nn.functional.linear(x, state[f"{name}.weight{at}"], state[f"{name}.bias{at}"]))
        for at in (1, 2, 3)
    )
    return third(torch.nn.functional.elu(second(torch.nn.functional.elu(first(features)))))


def test_conditional_one_step_follows_the_gradient_of_the_formula():
    fed = tiny_federation(
        NAME,
        conditional=True, local_epochs=1, batch_size=100, shuffle=False, momentum=0.0, weight_decay=0.0,
        train_samples=3, kl_weight=0.3, prior_std=0.1,
    )  # fmt: skip
    clip, examples, server = fed.world.clip, fed.examples(1), fed.server.state
    features, labels = examples.images.features, examples.labels
    upload = fed.clients[1].train(1, {}, fed.download(1)).upload.tensors
    assert len(upload) == 1 + 2 * 6

    leaves = {name: tensor.clone().requires_grad_() for name, tensor in server.items()}
    rng = fed.clients[1]._rng("local_update", 1)
    drawn = [rng.standard_normal((3, images, 16), dtype="float32") for images in (5, 3)]  # 16 prompts at a time
    noise = torch.from_numpy(np.concatenate(drawn, axis=1))
    mean, log_variance = (networks(leaves, name, features) for name in ("mean", "log_variance"))
    residuals = 0.1 * (mean + (log_variance / 2).exp() * noise)
    loss = 0.0
    for image in range(8):
        text = encode_prompts(clip.tower, clip.classes, leaves["context"] + residuals[:, image].unsqueeze(1))
        each = (clip.logit_scale * text @ features[image]).softmax(dim=-1)
        loss = loss - each.mean(dim=0)[labels[image]].log() / 8
    (loss + 0.3 * (log_variance.exp() + mean**2 - 1 - log_variance).mean() / 2).backward()
    for name, leaf in leaves.items():
        assert (upload[name] - leaf).norm() > 1e-7, name
        assert torch.allclose(upload[name], leaf - fed.world.config.prompt_lr * leaf.grad, atol=1e-6), name


def test_conditional_without_a_residual_it_is_promptfl_and_each_image_is_predicted_alone():
    options = {"train_samples": 1, "test_samples": 2, "local_epochs": 1}
    fed = tiny_federation(NAME, conditional=True, prior_std=0.0, **options).run([ALL])
    promptfl = tiny_federation("promptfl", local_epochs=1).run([ALL])
    assert torch.allclose(fed.contexts[0], promptfl.contexts[0], atol=1e-5)
    assert torch.allclose(fed.logits(0), promptfl.logits(0).log_softmax(dim=-1), atol=1e-4)

    fed = tiny_federation(NAME, conditional=True, prior_std=0.5, **options)
    images = tiny_examples(fed.world, 20, seed=77).images
    together, alone = (
        fed.method.predict(tiny_task(fed.world, {}, fed.download(0)), some) for some in (images, images[17:18])
    )
    assert torch.allclose(together[17], alone[0], atol=1e-5)
    assert torch.allclose(together.exp().sum(dim=-1), torch.ones(20), atol=1e-5)


def test_networks_that_give_the_same_for_all_images_predict_as_one_residual_does():
    one, each = (tiny_federation(NAME, conditional=given, prior_std=0.5, test_samples=3) for given in (False, True))
    drawn = {name: torch.randn(16) for name in ("mean", "log_variance")}
    one.server.state = {**one.server.state, **{name: tensor.unsqueeze(0) for name, tensor in drawn.items()}}
    zeros = {name: torch.zeros_like(tensor) for name, tensor in each.server.state.items()}
    biases = {f"{name}.bias3": tensor for name, tensor in drawn.items()}
    each.server.state = {**zeros, "context": one.server.state["context"], **biases}
    assert torch.allclose(each.logits(0), one.logits(0), atol=1e-5)


def test_networks_have_no_mixture_and_private_ones_stay_with_their_client():
    message = "^f: variance_average=moment needs conditional=false: networks have no mixture of variances$"
    with pytest.raises(ConfigError, match=message):
        build(config_class(NAME), {"method": NAME, "conditional": True, "variance_average": "moment"}, source="f")
    fed = tiny_federation(NAME, conditional=True, posterior="private")
    assert fed.download(0).num_bytes == 4 * 3 * 16
    networks_of_both = 2 * ((24 + 1) * 12 + (12 + 1) * 12 + (12 + 1) * 16)
    assert fed.method.trained_parameters(fed.world) == 3 * 16 + networks_of_both
    model = fed.method.server_model(tiny_task(fed.world, fed.privates[0], fed.download(0)))
    assert not any(tensor.any() for tensor in model.values())


@pytest.mark.parametrize(
    "option",
    [
        {"train_samples": 1},
        {"test_samples": 1},
        {"kl_weight": 5.0},
        {"prior_std": 0.5},
        {"posterior": "private"},
        {"variance_average": "moment"},
        {"conditional": True, "train_samples": 3, "test_samples": 3},
    ],
    ids=str,
)
def test_each_option_changes_the_result(option):
    logits = [tiny_federation(NAME, **{"prior_std": 0.2, **more}).run(COHORTS).logits(0) for more in ({}, option)]
    assert not torch.allclose(*logits, atol=1e-5)


@pytest.mark.parametrize("key", ["train_samples", "test_samples"])
def test_no_samples_are_refused_in_one_line(key):
    with pytest.raises(ConfigError, match=f"^f: {key}: got 0, should be greater than or equal to 1$"):
        build(config_class(NAME), {"method": NAME, key: 0}, source="f")
