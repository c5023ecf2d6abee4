import numpy as np
import pytest
import torch

from promptfleet.clip.shared_block import block_of
from promptfleet.methods.parts.distillation import distill, hidden_error, random_contexts
from promptfleet.methods.parts.side_by_side import run_alone
from tests.fakes import tiny_clip, tiny_world


@pytest.fixture(scope="module")
def world():
    return tiny_world(clip=tiny_clip(layers=3))


def distilled(world, steps, layer=0):
    return run_alone(world, distill(world, layer, steps=steps, lr=0.01, rng=np.random.default_rng(0)), "init_server")


def test_it_decreases_the_error_on_contexts_it_has_not_seen(world):
    contexts = random_contexts(world, 8, np.random.default_rng(1))
    before = hidden_error(world, distilled(world, 0), contexts)
    assert hidden_error(world, distilled(world, 60), contexts) < before / 2


def test_without_steps_it_is_the_layer_that_it_starts_from(world):
    for layer in (0, 2):
        wanted = block_of(world.clip.tower, layer)
        block = distilled(world, 0, layer)
        assert all(torch.equal(block[name], tensor) for name, tensor in wanted.items())


def test_a_tower_of_one_layer_has_no_error():
    world = tiny_world(clip=tiny_clip(layers=1))
    contexts = random_contexts(world, 2, np.random.default_rng(1))
    assert hidden_error(world, block_of(world.clip.tower, 0), contexts) == 0
