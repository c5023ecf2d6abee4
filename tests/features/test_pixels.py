"""Gradients through the image encoder: a learnable frame of pixels on the digits, with glyph-clip."""

import numpy as np
import pytest
import torch

import promptfleet
from promptfleet.clip.backbone import load_backbone
from promptfleet.clip.image_tower import ImageTower
from promptfleet.config import BackboneConfig, merge
from promptfleet.data.dataset import Dataset
from promptfleet.data.datasets import load_dataset
from promptfleet.data.feature_store import open_features
from promptfleet.errors import DataError
from promptfleet.features.pixels import pixel_reader
from promptfleet.federation.prepare import prepare
from tests.federation.test_backends import run_locally

METHOD = "tests.federation.pixel_frame:PixelFrame"


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(BackboneConfig())


@pytest.fixture(scope="module")
def pixels(backbone):
    digits = load_dataset("digits", "unused")
    return torch.stack([backbone.transform(digits.read_image(index)) for index in range(4)])


@pytest.fixture(scope="module")
def config(small_config):
    partition = {"kind": "iid", "test_fraction": 0.8, "val_fraction": 0.1}
    return small_config(method=METHOD, clients=2, participation=1.0, partition=partition)


@pytest.fixture(scope="module")
def prepared(config):
    return prepare(config)


@pytest.fixture(scope="module")
def local_result(config, prepared):
    return run_locally(config, prepared)


def test_gradient_at_the_pixels_is_that_of_open_clips_model(backbone, pixels):
    direction = torch.randn(4, 128, generator=torch.Generator().manual_seed(0))
    gradients = []
    for encode in (backbone.image_tower, lambda x: backbone.model.encode_image(x, normalize=True)):
        leaf = pixels.clone().requires_grad_()
        (encode(leaf) * direction).sum().backward()
        gradients.append(leaf.grad)
    assert float(gradients[0].norm()) > 0.1
    assert torch.allclose(*gradients, rtol=0, atol=1e-6)


def test_gradient_at_the_pixels_is_the_finite_difference(backbone, pixels):
    single = backbone.image_tower
    double = {name: tensor.double() for name, tensor in single.weights.items()}
    encoder = ImageTower(double, single.architecture, single.preprocessing)
    generator = torch.Generator().manual_seed(1)
    upstream = torch.randn(4, 128, generator=generator, dtype=torch.float64)
    leaf = pixels.double().requires_grad_()
    (encoder(leaf) * upstream).sum().backward()
    for _ in range(3):
        step = 1e-4 * torch.randn(leaf.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            difference = ((encoder(leaf + step) - encoder(leaf - step)) * upstream).sum() / 2
        assert float(difference) == pytest.approx(float((leaf.grad * step).sum()), rel=1e-5)


@pytest.mark.slow
def test_the_federation_learns_the_frame_and_nothing_else(config, local_result):
    frame = local_result.server["frame"]
    width = config.frame_width
    assert frame.shape == (3, 32, 32)
    assert float(frame[:, :width].abs().min()) > 0
    assert float(frame[:, width:-width, width:-width].abs().max()) == 0
    assert local_result.rounds[1].train_loss < local_result.rounds[0].train_loss
    assert local_result.val_accuracy > local_result.zero_shot_accuracy


def test_pixels_give_the_stored_features(prepared, pixels):
    store = open_features(prepared.features)
    assert np.allclose(prepared.image_tower(pixels).numpy(), store.features[:4], rtol=0, atol=1e-5)


@pytest.fixture
def decoded(monkeypatch):
    """Return the indices of decoded images."""
    read, get = [], Dataset.__getattribute__

    def counting(self, name):
        value = get(self, name)
        return (lambda index: read.append(index) or value(index)) if name == "read_image" else value

    monkeypatch.setattr(Dataset, "__getattribute__", counting)
    return read


@pytest.mark.slow
def test_images_are_read_batch_by_batch_and_decoded_once(config, prepared, monkeypatch, decoded):
    batches, stack = [], torch.stack
    monkeypatch.setattr(torch, "stack", lambda tensors, *rest: batches.append(len(tensors)) or stack(tensors, *rest))
    plain = {"sets": {"global": "never", "others": "never", "server": "never"}, "calibration": "never"}
    result = run_locally(type(config).model_validate(merge(config.to_dict(), {"evaluation": plain})), prepared)
    assert config.rounds > 1
    samples = sum(client.num_train + client.num_val + client.num_test for client in result.clients)
    assert sorted(decoded) == list(range(samples))
    assert max(batches) <= config.batch_size


@pytest.mark.parametrize("room", [0, 2, 4])
def test_what_does_not_fit_is_decoded_each_time(config, prepared, decoded, room):
    image_bytes = 4 * 3 * 32 * 32
    bounded = type(config).model_validate(
        merge(config.to_dict(), {"features": {"pixels_cache_bytes": (room + 1) * image_bytes - 1}})
    )
    read = pixel_reader(prepared.world(bounded), open_features(prepared.features).labels)
    indices = np.array([7, 3, 9, 1])
    epochs = [read(indices) for _ in range(3)]
    assert all(torch.equal(epoch, epochs[0]) for epoch in epochs)
    assert sorted(decoded) == sorted([1, 3, 7, 9] + 2 * sorted([7, 3, 9, 1][room:]))
    assert decoded.count(1) == (1 if room == 4 else 3)


def test_methods_on_features_have_no_image_encoder(small_config):
    assert prepare(small_config()).image_tower is None


def test_other_files_than_those_that_were_encoded_are_refused(config, prepared):
    world = prepared.world(config)
    with pytest.raises(DataError, match=r"^dataset digits: its files under data are not those that were encoded$"):
        pixel_reader(world, open_features(prepared.features).labels[::-1])


@pytest.mark.slow
@pytest.mark.ray
def test_actors_give_bitwise_the_local_result(ray_session, config, local_result):
    result = promptfleet.run_federation({**config.to_dict(), "runtime": {"backend": "ray"}})
    assert result.state_sha256 == local_result.state_sha256
    assert [report.client_val_accuracy for report in result.rounds] == [
        report.client_val_accuracy for report in local_result.rounds
    ]
