from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from promptfleet.errors import ConfigError
from promptfleet.federation.settings import federation_config
from promptfleet.methods.parts.described_alignment import Alignment
from promptfleet.methods.parts.optimal_transport import transport_plans
from promptfleet.methods.parts.prompts import encode_contexts, encode_frozen, similarity_logits
from promptfleet.methods.parts.side_by_side import run_alone
from promptfleet.methods.protocol import Examples
from tests.fakes import tiny_examples, tiny_task
from tests.tiny_federation import ALL, equal, tiny_federation

COHORTS = [ALL, [0, 2]]
BARE = {"prompts": 1, "patch_weight": 0.0, "alignment_weight": 0.0}
DESCRIBED = [[f"class {label}", *(f"text {i} of {label}." for i in range(2 + label % 2))] for label in range(4)]


def features(*shape, seed=0):
    return F.normalize(torch.randn(shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def dualpt(**config):
    return tiny_federation("dualpt", **{"prompts": 2, "descriptions": DESCRIBED, **config})


def test_one_prompt_without_alignments_is_promptfl_bit_for_bit():
    fed, promptfl = tiny_federation("dualpt", **BARE).run(COHORTS), tiny_federation("promptfl").run(COHORTS)
    for ours, theirs in zip(fed.history, promptfl.contexts, strict=True):
        assert torch.equal(ours["contexts"][0], theirs)
    assert all(torch.equal(fed.logits(i), promptfl.logits(i)) for i in ALL)


@pytest.mark.parametrize("epsilon", [0.1, None])
def test_the_alignment_is_a_cost_between_0_and_2_that_forgets_the_order(epsilon):
    counts, described, text = [2, 3, 2], features(7, 8), features(4, 3, 8, seed=1)

    def loss(text, described=described):
        return Alignment.of(described, counts, None, epsilon=epsilon, iterations=200).loss(text)

    assert 0 < loss(text) < 2
    assert torch.allclose(loss(text, described[[1, 0, 3, 4, 2, 6, 5]]), loss(text), atol=1e-6)
    same = torch.stack([described[0], described[2], described[5]])
    alike = same.repeat_interleave(torch.tensor(counts), dim=0)
    assert torch.allclose(loss(same.expand(4, 3, 8), alike), torch.tensor(0.0), atol=1e-6)
    assert torch.allclose(loss(-same.expand(4, 3, 8), alike), torch.tensor(2.0), atol=1e-6)


def test_the_plan_pairs_a_prompt_with_the_description_it_is_near():
    described = features(2, 8)
    aligned = [Alignment.of(described, [2], None, epsilon=epsilon, iterations=200) for epsilon in (0.01, None)]
    text = described.unsqueeze(1)  # prompt n is description n
    assert aligned[0].loss(text) < 1e-3
    assert aligned[1].loss(text) > 0.1


def test_plans_give_each_prompt_and_each_patch_the_same():
    similarity = 0.5 * features(3, 4, 5, 7)
    plans, finite = transport_plans(similarity, mass=1.0, epsilon=0.1, iterations=500)
    assert finite.all()
    assert torch.allclose(plans.sum(dim=3), torch.full((3, 4, 5), 1 / 4), atol=1e-5)
    assert torch.allclose(plans.sum(dim=1), torch.full((3, 5, 7), 1 / 7), atol=1e-5)


def test_where_all_patches_are_the_image_their_weight_has_no_effect():
    logits = []
    for weight in (0.0, 0.3, 1.0):
        fed = dualpt(patch_weight=weight)
        images = tiny_examples(fed.world, 6).images
        images = replace(images, patches=images.features.unsqueeze(1).expand(-1, 5, -1))
        logits.append(fed.method.predict(tiny_task(fed.world, {}, fed.download(0)), images))
    assert torch.allclose(logits[1], logits[0], atol=1e-4)
    assert torch.allclose(logits[2], logits[0], atol=1e-4)


def test_the_loss_is_the_formulas_and_a_class_without_images_is_aligned():
    fed = dualpt(alignment_weight=2.0, local_epochs=1, batch_size=100)
    world, config, download = fed.world, fed.world.config, fed.download(1)
    some = fed.examples(1)
    kept = (some.labels != 3).nonzero().squeeze(1)
    task = tiny_task(world, {}, download, Examples(some.images[kept], some.labels[kept]))

    contexts = download.tensors["contexts"].clone().requires_grad_()
    text = encode_contexts(world, contexts)
    described = encode_frozen(world, torch.zeros(0, 16), "descriptions")
    costs = []
    for label, rows in enumerate([[0, 1], [2, 3, 4], [5, 6], [7, 8, 9]]):
        similarity = text[:, label] @ described[rows].T
        plan, _ = transport_plans(similarity[None, :, None], mass=1.0, epsilon=0.1, iterations=100)
        costs.append(1 - (plan[0, :, 0] * similarity).sum())
    scores = fed.method.logits(task, task.train.images, text)
    loss = F.cross_entropy(scores, task.train.labels) + 2.0 * torch.stack(costs).mean()
    trained = run_alone(fed.world, fed.method.local_update(task))
    assert trained.metrics["loss"] == pytest.approx(loss.item(), abs=1e-5)
    loss.backward()
    step = trained.upload.tensors["contexts"] - contexts.detach()
    wanted = -config.prompt_lr * (contexts.grad + config.weight_decay * contexts.detach())
    assert step.norm() > 1e-4
    assert torch.allclose(step, wanted, atol=1e-6)

    text = text.detach().requires_grad_()
    aligned = Alignment.of(described, [2, 3, 2, 3], None, epsilon=0.1, iterations=100)
    aligned.loss(text).backward()
    assert text.grad[:, 3].norm(dim=-1).min() > 1e-3


def test_prompts_start_apart_and_are_averaged_one_by_one():
    fed = dualpt(prompts=3)
    start = fed.server.state["contexts"]
    assert not torch.equal(start[0], start[1])
    uploads = [fed.clients[i].train(1, {}, fed.download(i)) for i in (0, 2)]
    sizes = torch.tensor([6.0, 10.0])  # examples
    wanted = sum(s * one.upload.tensors["contexts"] for s, one in zip(sizes / sizes.sum(), uploads, strict=True))
    fed.run([[0, 2]])
    assert torch.allclose(fed.server.state["contexts"], wanted, atol=1e-6)
    assert not torch.allclose(fed.server.state["contexts"][0], fed.server.state["contexts"][1], atol=1e-3)


def test_personal_prompts_stay_with_their_client_and_predict_with_the_shared_ones():
    fed = dualpt(prompts=3, personal_prompts=1, patch_weight=0.0)
    start = dict(fed.privates)
    assert not torch.equal(start[0]["own.contexts"], start[1]["own.contexts"])
    fed.run([[0, 1]])
    assert equal(fed.privates[2], start[2])
    upload = fed.clients[0].train(2, fed.privates[0], fed.download(0)).upload
    assert upload.num_bytes == fed.download(0).num_bytes == 2 * 4 * 3 * 16
    assert fed.method.trained_parameters(fed.world) == 3 * 3 * 16
    text = torch.cat([fed.server.state["text"], encode_contexts(fed.world, fed.privates[0]["own.contexts"])])
    images = tiny_examples(fed.world, 8, seed=77).images
    wanted = similarity_logits(fed.world, images.features, text.mean(dim=0))
    assert torch.allclose(fed.logits(0), wanted, atol=1e-4)
    task = tiny_task(fed.world, fed.method.server_model(tiny_task(fed.world)), fed.download(0))
    alone = similarity_logits(fed.world, images.features, fed.server.state["text"].mean(dim=0))
    assert torch.allclose(fed.method.predict(task, images), alone, atol=1e-4)


def test_each_option_changes_the_result():
    options = [
        {},
        {"prompts": 3},
        {"personal_prompts": 1},
        {"descriptions": None},
        {"alignment_weight": 5.0},
        {"alignment": "mean"},
        {"alignment_epsilon": 1.0},
        {"patch_weight": 0.2},
        {"transport_epsilon": 1.0},
        {"transport_iterations": 1},
        {"prompt_lr": 0.01},
    ]
    logits = [dualpt(local_epochs=1, **one).run([[0, 1]]).logits(0) for one in options]
    for i, one in enumerate(logits):
        assert not any(torch.equal(one, other) for other in logits[:i]), options[i]


def test_without_descriptions_there_are_templates():
    fed = tiny_federation("dualpt")
    texts = fed.method.texts(fed.world.config, ["a_cat", "dog"])["descriptions"]
    assert texts[:2] == ["a photo of a a cat.", "a close-up photo of a a cat."]
    assert len(texts) == 10


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"prompts": 2, "personal_prompts": 2}, "personal_prompts=2 leaves nothing to share of prompts=2"),
        ({"descriptions_file": "nowhere.yaml"}, "nowhere.yaml: there is no such file"),
    ],
)
def test_a_configuration_that_cannot_be_meant_is_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        federation_config({"method": "dualpt", **config})


def test_descriptions_of_other_classes_are_refused():
    with pytest.raises(ConfigError, match=r"^descriptions: there is nothing for class 'class 0'; the dataset has "):
        dualpt(descriptions=[["cat", "a cat."], ["dog", "a dog."]])
