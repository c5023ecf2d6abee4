"""A federation on weights of a real architecture, from a file, and on images from a folder."""

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2

from promptfleet.data.datasets import load_dataset
from promptfleet.data.feature_store import open_features
from promptfleet.errors import ConfigError
from promptfleet.federation.prepare import prepare
from promptfleet.federation.settings import federation_config
from tests.clip.small_models import openai_state
from tests.federation.test_backends import run_locally

pytestmark = pytest.mark.slow


def original_model():
    """Its weights are such that half precision holds them exactly."""
    torch.manual_seed(0)
    return open_clip.create_model("RN50-quickgelu", pretrained=None).half().float().eval()


@pytest.fixture
def config(tmp_path):
    """Two clients on 3 x 10 digits as PNG files, and a ResNet-50 of random weights in OpenAI's format."""
    digits = load_dataset("digits", "unused")
    for label in range(3):
        folder = tmp_path / "data" / "imagefolder" / "train" / digits.class_names[label]
        folder.mkdir(parents=True)
        for index in np.flatnonzero(digits.labels == label)[:10]:
            digits.read_image(index).save(folder / f"{index:04d}.png")
    torch.save(openai_state(original_model()), tmp_path / "RN50.pt")
    return federation_config(
        {
            "dataset": "imagefolder",
            "data": {"root": str(tmp_path / "data")},
            "backbone": {"name": "RN50", "checkpoint": str(tmp_path / "RN50.pt")},
            "partition": {"kind": "iid"},
            "runtime": {"backend": "local"},
            "storage": {"path": str(tmp_path / "results")},
            "clients": 2,
            "rounds": 2,
            "local_epochs": 1,
            "prompt_length": 4,
        }
    )


def test_two_rounds_on_a_checkpoint(config):
    prepared = prepare(config)
    original = original_model()
    dataset = load_dataset("imagefolder", config.data.root)
    transform = image_transform_v2(PreprocessCfg(size=(224, 224)), is_train=False)
    pixels = torch.stack([transform(dataset.read_image(index)) for index in range(len(dataset))])
    texts = open_clip.tokenize([f"a photo of a {name}." for name in dataset.class_names])
    with torch.no_grad():
        wanted = original.encode_image(pixels, normalize=True)
        assert np.allclose(open_features(prepared.features).features, wanted.numpy(), rtol=0, atol=1e-6)
        wanted = original.encode_text(texts, normalize=True)
        assert torch.allclose(prepared.clip.zero_shot_text, wanted, rtol=0, atol=1e-6)

    result, again = run_locally(config, prepared), run_locally(config, prepared)
    assert [report.rejected for report in result.rounds] == [{}, {}]
    assert result.server["context"].shape[-2:] == (4, 512)
    assert result.rounds[0].train_loss != result.rounds[1].train_loss
    assert result.state_sha256 == again.state_sha256


def test_random_weights_are_one_sweeps_only_with_one_seed():
    random = federation_config({"backbone": {"name": "RN50", "pretrained": "random"}})
    wanted = r"^backbone\.pretrained=random draws other weights for each seed: give all federations one seed$"
    with pytest.raises(ConfigError, match=wanted):
        prepare(random, random.model_copy(update={"seed": 1}))
