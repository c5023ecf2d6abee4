import pytest
import torch
import torch.nn.functional as F

from promptfleet.methods.pfedprompt import memory_scores
from tests.fakes import tiny_examples, tiny_task
from tests.tiny_federation import ALL, tiny_federation


def test_without_the_memory_it_is_promptfl():
    ours, promptfl = (
        tiny_federation(name, **extra).run([ALL, [1]])
        for name, extra in [("pfedprompt", {"memory_weight": 0.0}), ("promptfl", {})]
    )
    assert ours.sha256() == promptfl.sha256()
    assert all(torch.equal(ours.logits(i), promptfl.logits(i)) for i in ALL)


def test_the_memory_adds_the_published_term():
    fed = tiny_federation("pfedprompt", memory_weight=2.0, memory_sharpness=3.0).run([ALL])
    promptfl = tiny_federation("promptfl").run([ALL])
    images, examples = tiny_examples(fed.world, 8, seed=77).images.features, fed.examples(1)
    wanted = torch.zeros(8, 4)
    for row, image in enumerate(images):
        for feature, label in zip(examples.images.features, examples.labels, strict=True):
            wanted[row, label] += 2.0 * torch.exp(-3.0 * (1 - image @ feature))
    assert torch.allclose(fed.logits(1) - promptfl.logits(1), wanted, atol=1e-4)


def test_the_order_of_memories_does_not_matter():
    fed = tiny_federation("pfedprompt").run([ALL])
    examples, images = fed.examples(3), tiny_examples(fed.world, 8, seed=77).images
    logits = []
    for order in (torch.arange(12), torch.arange(12).flip(0)):
        private = fed.method.personalize(tiny_task(fed.world, {}, fed.download(3), examples[order]))
        logits.append(fed.method.predict(tiny_task(fed.world, private, fed.download(3)), images))
    assert torch.allclose(logits[0], logits[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("sharpness", [0.0, 5.5, 50.0])
def test_a_class_scores_at_most_its_count_and_an_absent_one_nothing(sharpness):
    memory = F.normalize(torch.randn(6, 5, generator=torch.Generator().manual_seed(0)), dim=-1)
    one_hot = F.one_hot(torch.tensor([0, 0, 0, 2, 2, 2]), 4).float()
    scores = memory_scores(memory, memory, one_hot, sharpness)
    assert (scores <= 3 + 1e-5).all()
    assert (scores[:, [1, 3]] == 0).all()
    same = memory_scores(memory[:1], memory[:1].repeat(6, 1), one_hot, sharpness)
    assert torch.allclose(same, torch.tensor([[3.0, 0.0, 3.0, 0.0]]), atol=1e-4)


def test_a_prompt_is_all_that_travels_and_nothing_is_kept():
    fed = tiny_federation("pfedprompt").run([ALL])
    report = fed.clients[0].train(2, fed.privates[0], fed.download(0)).report
    assert report.uploaded_bytes == report.downloaded_bytes == 4 * 3 * 16
    assert fed.privates[0] == {}


def test_sharpness_changes_the_result():
    usual, sharp = (tiny_federation("pfedprompt", **extra).logits(0) for extra in ({}, {"memory_sharpness": 1.0}))
    assert not torch.allclose(usual, sharp, atol=1e-3)
