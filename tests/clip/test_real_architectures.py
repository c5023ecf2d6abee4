"""Random weights of CLIP's own architectures, written to files as open_clip and OpenAI write them, and read back."""

import numpy as np
import open_clip
import pytest
import torch
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from PIL import Image
from safetensors.torch import save_file

from promptfleet.clip.backbone import load_backbone
from promptfleet.clip.plain_encoder import encode_texts
from promptfleet.clip.prompt_encoder import encode_prompts
from promptfleet.clip.tokens import embed_classes
from promptfleet.config import BackboneConfig
from promptfleet.data.datasets import load_dataset
from tests.clip.small_models import image_features, openai_state

pytestmark = pytest.mark.slow
NAMES = ("cat", "golden retriever", "7")


@pytest.fixture(scope="module")
def original(request):
    """The architecture's name, and a model with QuickGELU whose weights half precision can hold exactly."""
    torch.manual_seed(0)
    model = open_clip.create_model(f"{request.param}-quickgelu", pretrained=None).eval().requires_grad_(False)
    with torch.random.fork_rng():
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):  # as after training, so that evaluation and training mode differ
                buffer.normal_(std=0.1)
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            tensor.copy_(tensor.half().float())
    return request.param, model


def write(model, file):
    if file.name == "openai.pt":
        torch.save(openai_state(model), file)
    elif file.name == "openai-archive.pt":
        torch.jit.script(model.half()).save(str(file))
        model.float()
    else:
        save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, file)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("original", "file"),
    [
        ("ViT-B-32", "open_clip.safetensors"),
        ("ViT-B-32", "openai-archive.pt"),
        ("RN50", "open_clip.safetensors"),
        ("RN50", "openai.pt"),
    ],
    indirect=["original"],
)
@torch.no_grad()
def test_features_are_those_of_the_original(original, file, tmp_path):
    architecture, model = original
    write(model, tmp_path / file)
    name = architecture if file.startswith("openai") else f"{architecture}-quickgelu"
    backbone = load_backbone(BackboneConfig(name=name, checkpoint=str(tmp_path / file)))
    (tmp_path / file).unlink()

    digits = load_dataset("digits", "unused")
    noise = np.random.default_rng(0).integers(0, 256, (60, 30, 3), dtype=np.uint8)
    images = [digits.read_image(0), digits.read_image(1), Image.fromarray(noise)]
    features = image_features(backbone, images)
    pixels = torch.stack([backbone.transform(image) for image in images])
    assert torch.allclose(pixels[2], by_hand(images[2]), atol=1e-6)
    theirs = model.encode_image(pixels, normalize=True)
    assert torch.allclose(features, theirs, rtol=0, atol=1e-6)
    assert torch.allclose(backbone.image_tower(pixels), theirs, rtol=0, atol=1e-6)
    assert float((theirs[0] - theirs[2]).norm()) > 1e-3  # another image, other features

    token_ids = open_clip.tokenize([f"a photo of a {name}." for name in NAMES])
    texts = model.encode_text(token_ids, normalize=True)
    assert torch.equal(backbone.tokenize([f"a photo of a {name}." for name in NAMES]), token_ids)
    assert torch.allclose(encode_texts(backbone.tower, token_ids), texts, rtol=0, atol=1e-6)
    words = backbone.tower.weights["token_embedding.weight"][token_ids[0, 1:5]]
    classes = embed_classes(backbone.tower, backbone.tokenize([f"{name}." for name in NAMES]))
    assert torch.allclose(encode_prompts(backbone.tower, classes, words[None])[0], texts, rtol=0, atol=1e-6)
    assert backbone.logit_scale == pytest.approx(float(model.logit_scale.exp()))


def by_hand(image):
    """CLIP's preprocessing of a picture twice as high as wide: shorter side to 224, centre, mean and deviation."""
    cropped = image.convert("RGB").resize((224, 448), Image.Resampling.BICUBIC).crop((0, 112, 224, 336))
    mean, std = (torch.tensor(value)[:, None, None] for value in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    return (torch.from_numpy(np.array(cropped)).permute(2, 0, 1) / 255 - mean) / std
