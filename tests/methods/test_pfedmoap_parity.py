"""pFedMoAP against numbers that the published implementation produced."""

import pytest
import torch

from promptfleet.clip.prompt_encoder import encode_prompts
from promptfleet.clip.tokens import class_texts
from promptfleet.methods.parts.gates import reduce_width
from tests.golden_pfedmoap import check_forward, check_trajectory
from tests.parity import load_golden


@pytest.fixture(scope="module")
def forward():
    return load_golden("forward")


@pytest.fixture(scope="module")
def trajectory():
    return load_golden("trajectory")


def test_tokens_are_those_of_the_published_prompts(forward):
    import open_clip

    golden, context_tokens = forward.tensors["tokenized_prompts"], int(forward.meta["n_ctx"])
    ours = open_clip.tokenize(class_texts(forward.pfedmoap_world().class_names))
    for theirs, row in zip(golden, ours, strict=True):
        assert (
            theirs[1 + context_tokens :].tolist() == [*row[1:].tolist(), *[0] * context_tokens][: 76 - context_tokens]
        )


def test_text_features(forward):
    world = forward.pfedmoap_world()
    contexts = torch.cat([forward.tensors["ctx"][None], forward.tensors["nonlocal_ctx"]])
    text = encode_prompts(world.clip.tower, world.clip.classes, contexts)
    assert torch.allclose(text[0], forward.tensors["text_features"], atol=1e-5)
    pooled = reduce_width(text[1:], world.config.gate_width)
    assert torch.allclose(pooled, forward.tensors["nonlocal_text_features_pooled"], atol=1e-5)


def test_image_features(forward):
    features = forward.image_features(forward.tensors["images"])
    assert torch.allclose(features, forward.tensors["image_features"], atol=1e-5)


def test_logits_loss_and_gradients(forward):
    check_forward(forward, "cpu")


def test_whole_trajectory_through_client_and_server(trajectory):
    check_trajectory(trajectory, "cpu")
