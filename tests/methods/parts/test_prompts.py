import numpy as np
import pytest
import torch

from promptfleet.clip.prompt_encoder import encode_prompts
from promptfleet.methods.parts.prompts import (
    context_shape,
    encode_contexts,
    encode_frozen,
    init_context,
    local_batches,
    similarity_logits,
)
from promptfleet.methods.protocol import Examples, Images
from promptfleet.seeding import stream
from tests.fakes import tiny_task, tiny_world


def numbered(count):
    return Examples(Images(torch.arange(count, dtype=torch.float32).view(-1, 1)), torch.arange(count))


def batches(count, seed=0, **config):
    world = tiny_world(**{"batch_size": 4, "local_epochs": 2, **config})
    return [batch.labels.tolist() for batch in local_batches(tiny_task(world, train=numbered(count), seed=seed))]


def test_each_epoch_is_a_new_order_of_everything_with_a_smaller_last_batch():
    made = batches(10)
    assert [len(batch) for batch in made] == [4, 4, 2] * 2
    first, second = ([label for batch in epoch for label in batch] for epoch in (made[:3], made[3:]))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_features_and_labels_stay_together():
    for batch in local_batches(tiny_task(tiny_world(), train=numbered(9))):
        assert batch.images.features.flatten().tolist() == batch.labels.tolist()


def test_without_shuffling_the_order_is_that_of_the_examples():
    assert batches(5, shuffle=False) == [[0, 1, 2, 3], [4]] * 2


def test_fewer_examples_than_a_batch_are_one_batch():
    assert [sorted(batch) for batch in batches(2)] == [[0, 1]] * 2


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


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_low_precision_is_the_text_towers_alone(precision):
    exact, low = tiny_world(), tiny_world(precision=precision)
    leaves = [init_context(exact, stream(0, "test")).unsqueeze(0).requires_grad_() for _ in range(2)]
    features = [encode_contexts(world, leaf) for world, leaf in zip((exact, low), leaves, strict=True)]
    assert features[1].dtype == torch.float32
    assert 0 < (features[0] - features[1]).abs().max() < 0.05
    for feature in features:
        feature[..., 0].sum().backward()
    gradients = [leaf.grad for leaf in leaves]
    assert gradients[1].dtype == torch.float32
    assert 0 < (gradients[0] - gradients[1]).norm() / gradients[0].norm() < 0.05


@pytest.mark.parametrize(("precision", "error"), [("bfloat16", 0.03), ("float16", 0.005)])
def test_gradients_of_a_small_loss_survive_low_precision(precision, error):
    """Without its scale float16 loses most of these."""
    worlds = tiny_world(), tiny_world(precision=precision)
    gradients = []
    for world in worlds:
        leaf = init_context(world, stream(0, "test")).unsqueeze(0).requires_grad_()
        (1e-6 * encode_contexts(world, leaf)[..., 0].sum()).backward()
        gradients.append(leaf.grad)
    exact, low = gradients
    assert (low - exact).norm() < error * exact.norm()


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_weights_that_were_cast_before_give_the_bits_of_those_cast_at_each_use(precision):
    world, dtype = tiny_world(precision=precision), getattr(torch, precision)
    context = init_context(world, stream(0, "test"))
    with torch.autocast("cpu", dtype), torch.no_grad():
        at_each_use = encode_prompts(world.clip.tower, world.clip.classes, context.unsqueeze(0))[0]
    assert torch.equal(encode_frozen(world, context), at_each_use)
    lowered = world.clip.tower.lowered(dtype)
    assert lowered is world.clip.tower.lowered(dtype)
    kept = {name for name, tensor in lowered.weights.items() if tensor.dtype == torch.float32}
    assert kept == {name for name in lowered.weights if ".ln_" in name or "ln_final" in name or "positional" in name}


def test_tf32_is_float32_on_a_cpu():
    exact, same = tiny_world(), tiny_world(precision="tf32")
    context = init_context(exact, stream(0, "test"))
    assert torch.equal(encode_frozen(exact, context), encode_frozen(same, context))


def test_what_a_prediction_made_is_of_use_to_training():
    world = tiny_world(precision="bfloat16")
    context = init_context(world, stream(0, "test"))
    with torch.inference_mode():
        encode_frozen(world, context)
    leaf = context.clone().unsqueeze(0).requires_grad_()
    encode_contexts(world, leaf).sum().backward()
    assert leaf.grad.isfinite().all()


def test_class_specific_contexts_are_one_per_class():
    world = tiny_world(class_specific_context=True)
    context = init_context(world, stream(0, "test"))
    assert context.shape == context_shape(world) == (4, 3, world.clip.tower.width)
    text = encode_frozen(world, context)
    changed = context.clone()
    changed[2] *= -1
    moved = (encode_frozen(world, changed) - text).abs().amax(dim=1)
    assert moved[2] > 1e-3
    assert moved[[0, 1, 3]].max() < 1e-6
