"""The prefix-shared encoder on the GPU: exact in both types, and the same bits however many prompts share a batch."""

import pytest
import torch

from promptfleet.clip.plain_encoder import encode_prompts_plainly
from promptfleet.clip.prompt_encoder import encode_prompts
from tests.fakes import tiny_classes, tiny_tower

pytestmark = pytest.mark.gpu

TOLERANCES = {"float32": (1e-5, 1e-4), "bfloat16": (3e-2, 5e-2)}  # of features, absolute; of gradients, of their norm


def encoded(encode, device, dtype, prompts, chosen=slice(None), position="end"):
    """Features and gradient of ``chosen`` of ``prompts`` contexts, on the device."""
    tower = tiny_tower(width=64, heads=4, layers=3)
    classes = tiny_classes(tower, (1, 3, 2, 2, 1, 4)).to(device)
    tower = tower.to(device)
    drawn = torch.Generator().manual_seed(0)
    contexts = torch.randn(prompts, 5, tower.width, generator=drawn)[chosen] * 0.1
    upstream = torch.randn(prompts, len(classes), tower.dim, generator=drawn)[chosen].to(device)
    leaf = contexts.to(device).requires_grad_()
    with torch.autocast(device.type, getattr(torch, dtype), enabled=dtype != "float32"):
        features = encode(tower, classes, leaf, position)
    features.backward(upstream)
    assert features.dtype == leaf.grad.dtype == torch.float32
    return features.detach().cpu(), leaf.grad.cpu()


@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_equals_the_plain_encoder_in_features_and_gradients(device, dtype, position):
    (fast, fast_gradient), (plain, plain_gradient) = (
        encoded(encode, device, dtype, 3, position=position) for encode in (encode_prompts, encode_prompts_plainly)
    )
    of_features, of_gradients = TOLERANCES[dtype]
    assert (fast - plain).abs().max() < of_features
    assert (fast_gradient - plain_gradient).norm() < of_gradients * plain_gradient.norm()


def test_equals_the_cpu(device):
    here, there = (encoded(encode_prompts, where, "float32", 3) for where in (device, torch.device("cpu")))
    for ours, theirs in zip(here, there, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prompts", [2, 7, 16])
def test_a_prompt_gives_the_same_bits_alone_and_beside_others(device, prompts):
    together = encoded(encode_prompts, device, "float32", prompts)
    for index in range(prompts):
        alone = encoded(encode_prompts, device, "float32", prompts, slice(index, index + 1))
        for all_of_them, one in zip(together, alone, strict=True):
            assert torch.equal(all_of_them[index : index + 1], one)


def test_products_are_exact_unless_tf32_is_asked_for(card):
    left, right = (torch.randn(512, 512, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    exact = left.double() @ right.double()
    found = (left.to(card) @ right.to(card)).cpu().double()
    assert (found - exact).norm() < 1e-5 * exact.norm()  # TF32 keeps ten bits: 3e-4
