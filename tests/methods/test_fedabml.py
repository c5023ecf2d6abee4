from functools import cache

import pytest
import torch
import torch.nn.functional as F

from promptfleet.clip.prompt_encoder import encode_prompts
from promptfleet.config import build
from promptfleet.errors import ConfigError
from promptfleet.methods import config_class
from promptfleet.methods.parts.gaussian_prompts import GAUSSIAN, kl_divergence, sampled_contexts
from promptfleet.methods.parts.side_by_side import run_alone
from promptfleet.methods.protocol import Message
from tests.fakes import tiny_arrived, tiny_examples, tiny_task
from tests.tiny_federation import ALL, equal, tiny_federation

NAME = "fedabml"
COHORTS = [ALL, [0, 2]]
POINT = {"prior_std": 0.0, "kl_weight": 0.0, "query": "all"}  # a prior without variance
ONE_STEP = {"local_epochs": 1, "batch_size": 100, "shuffle": False, "momentum": 0.0, "weight_decay": 0.0}


def personal(fed, client=0, **changes):
    task = tiny_task(fed.world, {}, fed.download(client), changes.get("train", fed.examples(client)))
    return run_alone(fed.world, fed.method.personalize(task), "personalize")


def posterior(fed, **changes):
    private = personal(fed, **changes)
    return {name: private[name] for name in GAUSSIAN}


def gaussian(mean, log_variance):
    return {"mean": torch.tensor(mean), "log_variance": torch.tensor(log_variance)}


def gradient_at(world, context, examples):
    """The cross-entropy's gradient at a context."""
    leaf = context.clone().requires_grad_()
    text = encode_prompts(world.clip.tower, world.clip.classes, leaf[None])[0]
    F.cross_entropy(world.clip.logit_scale * examples.images.features @ text.T, examples.labels).backward()
    return leaf.grad


def test_without_variance_and_adaptation_it_is_promptfl_bit_for_bit():
    fed = tiny_federation(NAME, adapt_steps=0, test_steps=0, train_samples=1, test_samples=1, **POINT).run(COHORTS)
    promptfl = tiny_federation("promptfl").run(COHORTS)
    for ours, theirs in zip(fed.history, promptfl.contexts, strict=True):
        assert torch.equal(ours["mean"], theirs)
    for client in ALL:
        assert torch.equal(fed.logits(client), promptfl.logits(client).log_softmax(dim=-1))


def test_without_variance_it_is_first_order_per_fedavg():
    fed = tiny_federation(NAME, adapt_steps=2, adapt_lr=0.1, **{**POINT, "query": "half"}, **ONE_STEP)
    world, examples, start = fed.world, fed.examples(1), fed.server.state["mean"]
    upload = fed.clients[1].train(1, {}, fed.download(1)).upload.tensors
    query, support = examples[torch.arange(4)], examples[torch.arange(4, 8)]
    reached = start
    for _ in range(2):
        reached = reached - 0.1 * gradient_at(world, reached, support)
    assert (reached - start).norm() > 1e-3
    wanted = start - world.config.prompt_lr * gradient_at(world, reached, query)
    assert torch.allclose(upload["mean"], wanted, atol=1e-5)
    assert not torch.allclose(
        upload["mean"], start - world.config.prompt_lr * gradient_at(world, start, query), atol=1e-5
    )
    assert not upload["log_variance"].any()


def test_the_prior_steps_towards_the_posterior_and_the_hyper_prior():
    common = {"kl_weight": 0.3, "adapt_lr": 0.01, "prior_std": 0.1, "train_samples": 2, "variance_lr": 0.02}
    fed = tiny_federation(NAME, adapt_steps=1, hyperprior_weight=0.5, precision_shape=2.0, **common, **ONE_STEP)
    world, examples, start = fed.world, fed.examples(1), fed.server.state
    upload = fed.clients[1].train(1, {}, fed.download(1)).upload.tensors
    noise = torch.from_numpy(fed.clients[1]._rng("local_update", 1).standard_normal((2, 2, 3, 16), dtype="float32"))
    query, support = examples[torch.arange(4)], examples[torch.arange(4, 8)]

    def leaves(state):
        return {name: tensor.detach().clone().requires_grad_() for name, tensor in state.items()}

    def cross_entropy(state, of, drawn):
        text = encode_prompts(world.clip.tower, world.clip.classes, sampled_contexts(state, 0.1, drawn))
        logits = world.clip.logit_scale * of.images.features @ text.transpose(1, 2)
        return torch.stack([F.cross_entropy(one, of.labels) for one in logits]).mean()

    posterior = leaves(start)
    cross_entropy(posterior, support, noise[0]).backward()
    posterior = leaves({name: leaf - 0.01 * leaf.grad for name, leaf in posterior.items()})  # the KL has no gradient
    cross_entropy(posterior, query, noise[1]).backward()
    prior = leaves(start)
    normals = [
        torch.distributions.Normal(state["mean"], 0.1 * (state["log_variance"] / 2).exp())
        for state in ({name: leaf.detach() for name, leaf in posterior.items()}, prior)
    ]
    precision = prior["log_variance"].neg().exp() / 0.01
    hyper = -torch.distributions.Normal(0.0, 1.0).log_prob(prior["mean"]).sum()
    hyper = hyper - torch.distributions.Gamma(2.0, 0.01).log_prob(precision).sum()
    (0.3 / 8 * torch.distributions.kl_divergence(*normals).sum() + 0.5 / 8 * hyper).backward()
    for name, rate in (("mean", world.config.prompt_lr), ("log_variance", 0.02)):
        wanted = start[name] - rate * (posterior[name].grad + prior[name].grad)
        assert (wanted - start[name]).norm() > 1e-3
        assert torch.allclose(upload[name], wanted, atol=1e-5)


def test_the_second_order_gradient_goes_through_the_steps_of_adaptation():
    options = {"kl_weight": 0.3, "adapt_lr": 0.02, "prior_std": 0.1, "variance_lr": 0.02, "train_samples": 1}
    fed = tiny_federation(NAME, second_order=True, **options, **ONE_STEP)
    world, examples = fed.world, fed.examples(1)
    upload = fed.clients[1].train(1, {}, fed.download(1)).upload.tensors
    noise = torch.from_numpy(fed.clients[1]._rng("local_update", 1).standard_normal((3, 1, 3, 16), dtype="float32"))
    query, support = examples[torch.arange(4)], examples[torch.arange(4, 8)]
    prior = {name: tensor.clone().requires_grad_() for name, tensor in fed.server.state.items()}

    def cross_entropy(state, of, drawn):
        text = encode_prompts(world.clip.tower, world.clip.classes, sampled_contexts(state, 0.1, drawn))[0]
        return F.cross_entropy(world.clip.logit_scale * of.images.features @ text.T, of.labels)

    posterior = {name: tensor * 1.0 for name, tensor in prior.items()}
    for step in range(2):
        loss = cross_entropy(posterior, support, noise[step]) + 0.3 / 8 * kl_divergence(posterior, prior, 0.1)
        gradients = torch.autograd.grad(loss, list(posterior.values()), create_graph=True)
        posterior = {name: posterior[name] - 0.02 * one for name, one in zip(posterior, gradients, strict=True)}
    fixed = {name: tensor.detach() for name, tensor in posterior.items()}
    (cross_entropy(posterior, query, noise[2]) + 0.3 / 8 * kl_divergence(fixed, prior, 0.1)).backward()
    first_order = tiny_federation(NAME, **options, **ONE_STEP)
    other = first_order.clients[1].train(1, {}, first_order.download(1)).upload.tensors
    for name, rate in (("mean", world.config.prompt_lr), ("log_variance", 0.02)):
        wanted = fed.server.state[name] - rate * prior[name].grad
        assert torch.allclose(upload[name], wanted, atol=1e-6)
        assert not torch.allclose(other[name], wanted, atol=1e-6)


def test_the_divergence_and_its_gradient_are_zero_at_the_prior():
    prior = gaussian([0.3, -1.0], [0.5, -0.2])
    posterior = {name: tensor.clone().requires_grad_() for name, tensor in prior.items()}
    divergence = kl_divergence(posterior, prior, 0.1)
    divergence.backward()
    assert divergence == 0
    assert all(not leaf.grad.any() for leaf in posterior.values())
    for other in (gaussian([0.3, -0.9], [0.5, -0.2]), gaussian([0.3, -1.0], [0.6, -0.2])):
        assert kl_divergence(other, prior, 0.1) > 0


def test_without_steps_a_posterior_is_the_prior_and_with_a_large_weight_it_stays_near():
    none = tiny_federation(NAME, test_steps=0)
    assert equal(posterior(none), none.server.state)
    options = {"prior_std": 0.1, "test_steps": 40, "adapt_lr": 0.01}
    walks = []
    for weight in (0.0, 0.1, 1.9):
        fed = tiny_federation(NAME, kl_weight=weight, **options)
        walks.append((personal(fed)["mean"] - fed.server.state["mean"]).norm().item())
    assert walks[0] > walks[1] > 2 * walks[2] > 0


def test_a_client_without_examples_or_with_numbers_that_are_not_finite_predicts_with_the_prior():
    fed = tiny_federation(NAME)
    for train in (fed.examples(0)[torch.arange(0)], _spoiled(fed.examples(0))):
        assert equal(posterior(fed, train=train), fed.server.state)


def _spoiled(examples):
    examples.images.features[0, 0] = float("nan")
    return examples


def test_a_batch_of_one_example_is_not_split():
    fed = tiny_federation(NAME, batch_size=5)  # clients have 6, 8, 10, 12 examples
    metrics = [fed.clients[i].train(1, {}, fed.download(i)).report.metrics["unsplit_batches"] for i in ALL]
    assert metrics == [1.0, 0.0, 0.0, 0.0]


def test_a_prediction_is_the_mean_of_the_probabilities_of_the_posteriors_samples():
    fed = tiny_federation(NAME, prior_std=0.5, test_samples=4).run(COHORTS)
    clip, images, own = fed.world.clip, tiny_examples(fed.world, 8, seed=77).images, personal(fed)
    noise = torch.from_numpy(tiny_task(fed.world).to_predict().rng.standard_normal((4, 3, 16), dtype="float32"))
    text = encode_prompts(clip.tower, clip.classes, sampled_contexts(own, 0.5, noise))
    each = torch.log_softmax(clip.logit_scale * images.features @ text.transpose(1, 2), dim=-1)
    logits = fed.logits(0)
    assert torch.allclose(logits, each.exp().mean(dim=0).log(), atol=1e-5)
    assert torch.allclose(logits.exp().sum(dim=-1), torch.ones(8), atol=1e-5)
    assert (logits - each.mean(dim=0)).min() > 0  # Jensen
    assert torch.equal(logits, fed.logits(0))
    assert fed.method.server_model(tiny_task(fed.world, own, fed.download(0))) == {}


def test_messages_are_two_prompts():
    fed = tiny_federation(NAME)
    upload = fed.clients[0].train(1, {}, fed.download(0)).upload
    assert upload.num_bytes == fed.download(0).num_bytes == 4 * 2 * 3 * 16


@pytest.mark.parametrize(
    ("average", "wanted"), [("geometric", 0.5), ("precision", -torch.tensor([1, 0.3679]).mean().log())]
)
def test_variances_are_averaged_as_geometric_means_or_by_precision(average, wanted):
    fed = tiny_federation(NAME, variance_average=average)
    uploads = {i: Message({**fed.server.state, "log_variance": torch.full((3, 16), float(i))}) for i in (0, 1)}
    averaged = fed.method.aggregate(fed.server.state, tiny_arrived(fed.world, uploads, {0: 6, 1: 6}))
    assert torch.allclose(averaged["log_variance"], torch.full((3, 16), wanted), atol=1e-4)


@cache  # of those that several options are compared with
def logits_with(**config):
    config = {"prior_std": 0.1, "adapt_lr": 0.05, "variance_lr": 0.5, "local_epochs": 1, **config}
    return tiny_federation(NAME, **config).run([ALL]).logits(0)


@pytest.mark.parametrize(
    "option",
    [
        {"variance_lr": 1.0},
        {"adapt_steps": 1},
        {"test_steps": 1},
        {"adapt_lr": 0.03},
        {"kl_weight": 0.2},
        {"train_samples": 2},
        {"test_samples": 2},
        {"prior_std": 0.2},
        {"query": "all"},
        {"second_order": True},
        {"hyperprior_weight": 1.0},
        {"hyperprior_weight": 1.0, "precision_shape": 3.0},
        {"hyperprior_weight": 1.0, "precision_rate": 0.1},
        {"variance_average": "precision"},
    ],
    ids=str,
)
def test_each_option_changes_the_result(option):
    base = {"hyperprior_weight": 1.0} if len(option) == 2 else {}
    assert not torch.allclose(logits_with(**base), logits_with(**option), atol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"train_samples": 0}, "^f: train_samples: got 0, should be greater than or equal to 1$"),
        ({"test_samples": 0}, "^f: test_samples: got 0, should be greater than or equal to 1$"),
        ({"prior_std": 0}, "^f: prior_std=0 needs kl_weight=0 and hyperprior_weight=0$"),
    ],
    ids=str,
)
def test_bad_values_are_refused_in_one_line(wrong, message):
    with pytest.raises(ConfigError, match=message):
        build(config_class(NAME), {"method": NAME, **wrong}, source="f")


def test_steps_that_diverge_are_refused_in_one_line():
    fed = tiny_federation(NAME, kl_weight=1.0, adapt_lr=0.1)
    with pytest.raises(ConfigError, match=r"adapt_lr \* kl_weight = 0.1 .* below 2 \* prior_std\^2 = 0.0008$"):
        fed.method.check(fed.world)
