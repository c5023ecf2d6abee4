"""Predictions among other classes: the prompts that were trained, with other names after them."""

from dataclasses import replace

import pytest
import torch

from promptfleet.methods import METHODS, load_method
from promptfleet.methods.parts.prompts import encode_frozen, similarity_logits
from promptfleet.methods.parts.side_by_side import run_alone, run_together
from promptfleet.methods.protocol import PredictsOtherClasses
from tests.fakes import tiny_clip, tiny_examples, tiny_task
from tests.tiny_federation import ALL, tiny_federation

OPEN = [name for name in METHODS if isinstance(load_method(name), PredictsOtherClasses)]

# of methods whose predictions depend on memories of the classes, or on samples that differ between two predictions
ALIKE = {
    "pfedprompt": {"memory_weight": 0.0},
    "bayesian_prompt": {"prior_std": 0.0},
    "fedabml": {"prior_std": 0.0, "kl_weight": 0.0},
}


def trained(name, **config):
    """A federation and, by client, the task that it predicts with."""
    fed = tiny_federation(name, local_epochs=1, batch_size=8, prompt_length=2, **config).run([ALL, [0, 2, 3]])
    tasks = {}
    for client in ALL:
        task = tiny_task(fed.world, fed.privates[client], fed.download(client), fed.examples(client))
        tasks[client] = replace(task, private=run_alone(fed.world, fed.method.personalize(task), "personalize"))
    return fed, tasks


def logits_among(fed, tasks, world):
    """``[clients, images, classes]`` of the world's own classes."""
    images = tiny_examples(fed.world, 8, seed=77).images
    reworded = run_together(world, [fed.method.reworded(task, world) for task in tasks.values()], "reworded")
    assert all(task.world is world for task in reworded)
    return torch.stack([fed.method.predict(task, images) for task in reworded])


def of_clip(fed, clip):
    return replace(fed.world, clip=clip, class_names=tuple(f"other {label}" for label in range(len(clip.classes))))


def test_all_methods_but_those_with_a_row_per_class_can():
    assert set(METHODS) - set(OPEN) == {"linear_probe", "fedrep"}


@pytest.mark.parametrize("name", OPEN)
def test_classes_in_another_order_get_the_same_logits_in_that_order(name):
    fed, tasks = trained(name, **ALIKE.get(name, {}))
    images = tiny_examples(fed.world, 8, seed=77).images
    before = torch.stack([fed.method.predict(task, images) for task in tasks.values()])
    order = [2, 0, 3, 1]
    after = logits_among(fed, tasks, of_clip(fed, fed.world.clip.take(order)))
    assert torch.allclose(after, before[..., order], atol=1e-4)
    some = logits_among(fed, tasks, of_clip(fed, fed.world.clip.take([3, 1])))
    assert some.shape == (4, 8, 2)
    if name != "fedtpg":  # it makes its context of all classes
        alike = [logits.log_softmax(dim=-1) for logits in (some, before[..., [3, 1]])]
        assert torch.allclose(*alike, atol=1e-4)


@pytest.mark.parametrize("name", OPEN)
def test_other_names_give_other_logits(name):
    fed, tasks = trained(name)
    other = of_clip(fed, tiny_clip((2, 2, 1, 4, 1), layers=1))
    found = logits_among(fed, tasks, other)
    assert found.shape == (4, 8, 5)
    assert torch.isfinite(found).all()


def test_the_prompt_of_promptfl_goes_before_the_new_names():
    fed, tasks = trained("promptfl")
    world = of_clip(fed, tiny_clip((2, 2, 1, 4, 1), layers=1))
    wanted = similarity_logits(
        world, tiny_examples(fed.world, 8, seed=77).images.features, encode_frozen(world, fed.server.state["context"])
    )
    assert torch.allclose(logits_among(fed, tasks, world)[0], wanted, atol=1e-5)


def test_the_memory_of_pfedprompt_says_nothing_about_other_classes():
    fed, tasks = trained("pfedprompt")
    world = of_clip(fed, tiny_clip((2, 2, 1), layers=1))
    promptfl, its_tasks = trained("promptfl")
    assert torch.allclose(logits_among(fed, tasks, world), logits_among(promptfl, its_tasks, world), atol=1e-5)
