import math

import pytest
import torch
import torch.nn.functional as F

from promptfleet.clip.prompt_encoder import encode_prompts
from promptfleet.errors import ConfigError
from promptfleet.methods import load_method
from promptfleet.methods.fedtpg import FedTPGConfig, cosine
from promptfleet.methods.parts.prompt_generator import generate_context
from promptfleet.methods.parts.prompts import encode_frozen, similarity_logits
from promptfleet.methods.protocol import Images
from tests.fakes import tiny_client, tiny_clip, tiny_examples, tiny_task, tiny_world
from tests.tiny_federation import ALL, tiny_federation

ONE_STEP = {"local_epochs": 1, "batch_size": 100, "shuffle": False, "momentum": 0.0, "weight_decay": 0.01}


def generator_of(tensors):
    return {name.removeprefix("generator."): t for name, t in tensors.items() if name.startswith("generator.")}


def examples_of(world, labels):
    examples = tiny_examples(world, 40, seed=5)
    return examples[torch.isin(examples.labels, torch.tensor(labels)).nonzero().squeeze(1)]


@pytest.mark.parametrize(("which", "labels", "classes"), [("local", [1, 3], [1, 3]), ("all", [1, 3], [0, 1, 2, 3])])
def test_one_step_follows_the_gradient_of_the_formula(which, labels, classes):
    fed = tiny_federation("fedtpg", generator_classes=which, **ONE_STEP)
    world, examples = fed.world, examples_of(fed.world, labels)
    client = tiny_client(0, fed.method, world, train=examples)
    trained = client.train(1, client.initial_state(), fed.download(0))

    generator = {name: t.clone().requires_grad_() for name, t in generator_of(fed.server.state).items()}
    context = generate_context(generator, world.clip.zero_shot_text[classes])
    text = encode_prompts(world.clip.tower, world.clip.classes, context[None])[0]
    scores = world.clip.logit_scale * examples.images.features @ text.T
    log_probabilities = scores.double() - scores[:, classes].double().exp().sum(dim=1, keepdim=True).log()
    loss = -log_probabilities[torch.arange(len(examples)), examples.labels].mean()
    loss.backward()

    for name, stepped in generator_of(trained.upload.tensors).items():
        leaf = generator[name]
        wanted = leaf - world.config.prompt_lr * (leaf.grad + 0.01 * leaf)
        assert torch.allclose(stepped, wanted, atol=1e-6), name
        assert name == "key.bias" or not torch.equal(stepped, leaf), name
    assert trained.report.metrics["loss"] == pytest.approx(loss.item(), abs=1e-5)


def test_two_clients_with_the_same_network_and_other_classes_get_other_prompts():
    fed = tiny_federation("fedtpg").run([[0]])
    generator, text = generator_of(fed.server.state), fed.world.clip.zero_shot_text
    one, other = (generate_context(generator, text[classes]) for classes in ([0, 1], [2, 3]))
    assert one.shape == other.shape == (3, 16)
    assert (one - other).abs().max() > 1e-4


def test_every_client_counts_the_same_in_the_mean_of_the_whole_network():
    fed = tiny_federation("fedtpg")
    downloads = fed.server.select(1, ALL)
    results = {i: fed.clients[i].train(1, {}, downloads[i]) for i in ALL}
    assert len({one.num_examples for one in results.values()}) == 4
    fed.server.aggregate(1, results)
    for name in results[0].upload.tensors:
        mean = torch.stack([one.upload.tensors[name] for one in results.values()]).mean(dim=0)
        assert torch.allclose(fed.server.state[name], mean, atol=1e-6), name


def test_everybody_predicts_over_all_classes_with_the_prompt_made_for_all():
    fed = tiny_federation("fedtpg").run([[0, 1], [1, 2]])
    context = generate_context(generator_of(fed.server.state), fed.world.clip.zero_shot_text)
    features = tiny_examples(fed.world, 8, seed=77).images.features
    wanted = similarity_logits(fed.world, features, encode_frozen(fed.world, context))
    for i in ALL:
        assert torch.equal(fed.logits(i), wanted)


def test_a_message_is_the_whole_network_and_larger_than_a_prompt():
    fed = tiny_federation("fedtpg")
    report = fed.clients[0].train(1, {}, fed.download(0)).report
    floats = sum(tensor.numel() for tensor in generator_of(fed.server.state).values())
    assert report.uploaded_bytes == 4 * floats
    assert report.downloaded_bytes == 4 * floats
    assert floats > 50 * 3 * 16


def test_learning_rates_fall_along_a_cosine_of_the_round():
    assert [cosine(2.0, step, 4) for step in range(5)] == pytest.approx(
        [2, 1 + math.sqrt(0.5), 1, 1 - math.sqrt(0.5), 0]
    )
    fed = tiny_federation("fedtpg", rounds=3, **{**ONE_STEP, "weight_decay": 0.0})
    download = fed.download(0)
    steps = []
    for done in range(3):
        stepped = fed.clients[0].train(done + 1, {}, download).upload.tensors
        steps.append(stepped["generator.output.weight"] - download.tensors["generator.output.weight"])
    assert torch.allclose(steps[1], 0.75 * steps[0], atol=1e-7)
    assert torch.allclose(steps[2], 0.25 * steps[0], atol=1e-7)
    assert steps[0].abs().max() > 1e-4


def test_training_learns():
    fed = tiny_federation("fedtpg", prompt_lr=0.02, local_epochs=5, generator_classes="all")
    examples = fed.examples(3)

    def loss():
        return F.cross_entropy(
            fed.method.predict(tiny_task(fed.world, {}, fed.download(3)), examples.images), examples.labels
        )

    before = loss()
    fed.run([[3]] * 3)
    assert loss() < 0.8 * before


def test_local_classes_change_the_result():
    cohort = [0]
    local, everything = (tiny_federation("fedtpg", generator_classes=which) for which in ("local", "all"))
    for fed in (local, everything):
        fed.clients[0] = tiny_client(0, fed.method, fed.world, train=examples_of(fed.world, [0, 2]))
        fed.run([cohort])
    images = Images(tiny_examples(local.world, 8, seed=77).images.features)
    logits = [fed.method.predict(tiny_task(fed.world, {}, fed.download(1)), images) for fed in (local, everything)]
    assert not torch.allclose(*logits, atol=1e-5)


def test_what_it_cannot_do_is_refused():
    method = load_method("fedtpg")
    with pytest.raises(ConfigError, match=r"^fedtpg makes one context for all classes: class_specific_context must be"):
        method.check(tiny_world(config_class=FedTPGConfig, class_specific_context=True))
    with pytest.raises(ConfigError, match=r"^fedtpg needs a text tower whose width 4 divides, not 18$"):
        method.check(tiny_world(config_class=FedTPGConfig, clip=tiny_clip(width=18, heads=2)))


STEPS = {"local_epochs": 1, "batch_size": 100, "shuffle": False, "momentum": 0.9, "weight_decay": 0.01}


def test_rounds_of_one_client_are_the_steps_of_one_optimizer():
    fed = tiny_federation("fedtpg", clients=1, rounds=6, generator_classes="all", **STEPS)
    world, examples = fed.world, fed.examples(0)
    parameters = {name: t.clone().requires_grad_() for name, t in generator_of(fed.server.state).items()}
    optimizer = torch.optim.SGD(parameters.values(), lr=1.0, momentum=0.9, weight_decay=0.01)
    for step in range(4):
        context = generate_context(parameters, world.clip.zero_shot_text)
        text = encode_prompts(world.clip.tower, world.clip.classes, context[None])[0]
        optimizer.zero_grad()
        F.cross_entropy(similarity_logits(world, examples.images.features, text), examples.labels).backward()
        optimizer.param_groups[0]["lr"] = cosine(world.config.prompt_lr, step, 6)
        optimizer.step()
    for name, tensor in generator_of(fed.run([[0]] * 4).server.state).items():
        assert torch.allclose(tensor, parameters[name], atol=1e-5), name


def test_momentum_is_kept_by_the_clients_that_trained_and_never_sent():
    fed = tiny_federation("fedtpg").run([[0, 2]])
    numbers = fed.method.trained_parameters(fed.world)
    assert [len(fed.privates[client]["momentum"]) for client in ALL] == [numbers, 0, numbers, 0]
    assert not torch.equal(fed.privates[0]["momentum"], fed.privates[2]["momentum"])
    assert fed.clients[0].train(2, fed.privates[0], fed.download(0)).report.uploaded_bytes == 4 * numbers
    assert all(private == {} for private in tiny_federation("fedtpg", keep_momentum=False).run([ALL]).privates.values())


def test_kept_momentum_moves_the_generator_further_and_without_momentum_it_is_nothing():
    def moved(**config):
        fed = tiny_federation("fedtpg", rounds=40, clients=2, **{**STEPS, "prompt_lr": 0.003, **config})
        start = generator_of(fed.server.state)
        end = generator_of(fed.run([range(2)] * 20).server.state)
        return torch.cat([(end[name] - start[name]).flatten() for name in start])

    assert moved().norm() > 2 * moved(keep_momentum=False).norm()
    assert torch.equal(moved(momentum=0.0), moved(momentum=0.0, keep_momentum=False))
