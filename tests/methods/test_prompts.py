import numpy as np
import pytest
import torch

from promptfleet.methods.prompts import init_context, local_batches, mean_over_clients, similarity_logits
from promptfleet.methods.protocol import Examples
from tests.fakes import tiny_world


def numbered(count):
    return Examples(torch.arange(count, dtype=torch.float32).view(-1, 1), torch.arange(count))


def batches(count, seed=0, **config):
    world = tiny_world(**{"batch_size": 4, "local_epochs": 2, **config})
    return [batch.labels.tolist() for batch in local_batches(world, numbered(count), np.random.default_rng(seed))]


def test_each_epoch_is_a_new_order_of_everything_with_a_smaller_last_batch():
    made = batches(10)
    assert [len(batch) for batch in made] == [4, 4, 2] * 2
    first, second = ([label for batch in epoch for label in batch] for epoch in (made[:3], made[3:]))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_features_and_labels_stay_together():
    for batch in local_batches(tiny_world(), numbered(9), np.random.default_rng(0)):
        assert batch.features.flatten().tolist() == batch.labels.tolist()


def test_without_shuffling_the_order_is_that_of_the_examples():
    assert batches(5, shuffle=False) == [[0, 1, 2, 3], [4]] * 2


def test_fewer_examples_than_a_batch_are_one_batch():
    assert [sorted(batch) for batch in batches(2)] == [[0, 1]] * 2


def test_mean_is_weighted_by_examples():
    mean = mean_over_clients({7: torch.tensor([1.0]), 2: torch.tensor([4.0])}, {2: 2, 7: 1})
    assert mean.tolist() == [3.0]
    assert mean.dtype == torch.float32


def test_mean_does_not_depend_on_the_order_of_uploads():
    generator = torch.Generator().manual_seed(0)
    tensors = {client: torch.randn(3, 4, generator=generator) for client in range(5)}
    weights = {client: client + 3 for client in range(5)}
    mean = mean_over_clients(tensors, weights)
    assert torch.equal(mean_over_clients(dict(reversed(tensors.items())), weights), mean)
    exact = sum(weights[client] * tensors[client].double() for client in range(5)) / sum(weights.values())
    assert torch.allclose(mean.double(), exact, atol=1e-6)


def test_context_is_normal_with_the_published_deviation():
    world = tiny_world(prompt_length=70)
    context = init_context(world, np.random.default_rng(0))
    assert context.shape == (70, world.clip.tower.width)
    assert context.dtype == torch.float32
    assert float(context.std()) == pytest.approx(0.02, rel=0.1)


def test_similarity_is_scaled_cosine():
    world = tiny_world()
    logits = similarity_logits(world, torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.6, 0.8]]))
    assert torch.allclose(logits, torch.tensor([[20.0, 12.0]]))
