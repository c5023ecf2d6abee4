"""Images through the image tower: in each precision, and of several clients at once."""

from dataclasses import replace

import pytest
import torch

from promptfleet.methods.parts import side_by_side as lockstep
from promptfleet.methods.parts.images import class_tokens, encode_images
from promptfleet.methods.parts.side_by_side import run_together
from promptfleet.methods.protocol import EncodeImages, Message, Update
from tests.fakes import tiny_image_tower, tiny_world
from tests.tiny_federation import ALL, tiny_federation


def world_with_tower(**config):
    return replace(tiny_world(**config), image_tower=tiny_image_tower())


@pytest.mark.parametrize(("precision", "error"), [("bfloat16", 3e-2), ("float16", 4e-3)])
def test_a_lower_precision_gives_about_the_same_features_and_gradients(precision, error):
    generator = torch.Generator().manual_seed(0)
    start, direction = torch.randn(3, 3, 8, 8, generator=generator), torch.randn(3, 24, generator=generator)
    token = torch.randn(3, 1, 16, generator=generator)
    found = {}
    for name in ("float32", precision):
        world, pixels = world_with_tower(precision=name), start.clone().requires_grad_()
        features = encode_images(world, pixels, {1: token}, pooled=2)
        (gradient,) = torch.autograd.grad((features * direction).sum(), pixels)
        found[name] = features.detach(), gradient, class_tokens(world, start)
        assert features.dtype == gradient.dtype == torch.float32
    for exact, lower in zip(*found.values(), strict=True):
        assert 0 < (lower - exact).norm() < error * exact.norm()


def test_clients_of_one_moment_are_one_batch_and_other_towers_encode_client_by_client(monkeypatch):
    sizes = []

    def counted(world, pixels, *more, encode=lockstep.encode_images):
        sizes.append(len(pixels))
        return encode(world, pixels, *more)

    monkeypatch.setattr(lockstep, "encode_images", counted)
    tiny_federation("sgpt", local_epochs=1, batch_size=100).run([ALL])
    assert sizes == [6, 6, 8, 8, 10, 10, 12, 12]  # clients that train one after the other, in two stages

    def asks(images):
        features = yield EncodeImages(torch.ones(images, 3, 8, 8))
        return Update({"features": features}, Message({}), {})

    world = world_with_tower()
    sizes.clear()
    run_together(world, [asks(2), asks(3)])
    assert sizes == [5]
    other = replace(world.image_tower, architecture={"vision_cfg": {"layers": [1, 1, 1, 1]}})
    monkeypatch.setattr(type(other), "__call__", lambda self, pixels: pixels.flatten(1))
    sizes.clear()
    run_together(replace(world, image_tower=other), [asks(2), asks(3)])
    assert sizes == [2, 3]
