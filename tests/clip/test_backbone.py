import re

import open_clip
import pytest
import torch
from PIL import Image

from promptfleet.clip.backbone import load_backbone
from promptfleet.clip.text_tower import text_tower_of
from promptfleet.config import BackboneConfig
from promptfleet.errors import BackboneError
from tests.clip.small_models import MODEL, TEXTS, assert_same_text_features, image_features

# load_backbone


@pytest.mark.parametrize("file", ["weights.pt", "weights.safetensors"])
def test_a_local_file_of_weights_loads(tiny, file):
    backbone = load_backbone(BackboneConfig(name=MODEL, checkpoint=str(tiny.folder / file)))
    assert_same_text_features(backbone.tower, tiny.model)
    assert backbone.logit_scale == pytest.approx(1 / 0.07, rel=1e-5)  # CLIP's initial value
    assert backbone.name == f"{MODEL}/{file}"
    images = [Image.new("RGB", (20, 16), colour) for colour in ("red", "green", "blue")]
    features = image_features(backbone, images)
    assert features.shape == (3, 24)
    assert torch.allclose(features.norm(dim=-1), torch.ones(3), atol=1e-6)
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())


def test_fingerprint_is_that_of_the_model_not_of_the_file(tiny):
    def fingerprint(file, name=MODEL):
        return load_backbone(BackboneConfig(name=name, checkpoint=str(tiny.folder / file))).fingerprint

    assert fingerprint("weights.pt") == fingerprint("weights.safetensors") != fingerprint("changed.safetensors")
    assert fingerprint("weights.pt", f"{MODEL}-quickgelu") != fingerprint("weights.pt")


def test_glyph_clip_brings_its_weights():
    with pytest.raises(BackboneError) as caught:
        load_backbone(BackboneConfig(pretrained="openai"))
    assert str(caught.value) == (
        "backbone.name=glyph-clip has its own weights: leave out backbone.pretrained=openai, or set "
        "backbone.name to the architecture of those, such as ViT-B-16"
    )


# glyph-clip


@pytest.fixture(scope="module")
def glyph_clip():
    return load_backbone(BackboneConfig())


def test_glyph_clips_tower_is_that_of_its_open_clip_model(glyph_clip):
    assert_same_text_features(glyph_clip.tower, glyph_clip.model)
    assert_same_text_features(text_tower_of(glyph_clip.model), glyph_clip.model)
    assert glyph_clip.logit_scale == pytest.approx(float(glyph_clip.model.logit_scale.exp()))


def test_glyph_clip_tokenizes_like_open_clip(glyph_clip):
    assert torch.equal(glyph_clip.tokenize(TEXTS), open_clip.tokenize(TEXTS))


def test_glyph_clip_encodes_images_of_any_size_and_mode(glyph_clip):
    images = [Image.linear_gradient("L"), Image.new("RGB", (8, 8), "red"), Image.new("L", (40, 20), 200)]
    features = image_features(glyph_clip, images)
    assert features.shape == (3, 128)
    assert torch.allclose(features.norm(dim=-1), torch.ones(3), atol=1e-6)
    again = torch.cat([image_features(glyph_clip, [image]) for image in images])
    assert torch.allclose(features, again, atol=1e-5)


def test_glyph_clips_fingerprint_is_always_the_same(glyph_clip):
    assert load_backbone(BackboneConfig()).fingerprint == glyph_clip.fingerprint
    assert re.fullmatch(r"[0-9a-f]{64}", glyph_clip.fingerprint)
