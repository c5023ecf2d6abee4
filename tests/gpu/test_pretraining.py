"""Pretraining on the GPU: images are drawn there, steps are taken there, and any machine can read its checkpoint."""

import numpy as np
import pytest
import torch

from promptfleet.pretraining import bank, glyphs, loop

pytestmark = pytest.mark.gpu


def test_images_are_drawn_on_the_device(device):
    rng = np.random.default_rng(0)
    drawn = bank.build_bank(rng, fonts=bank.FONTS[:1], pens_per_digit=1, pens_per_other=1).to(device)
    rendered = glyphs.render(drawn, torch.arange(40, device=device), torch.Generator(device).manual_seed(0))
    assert {tensor.device.type for tensor in (rendered.images, rendered.label, rendered.styles)} == {device.type}
    assert rendered.images.flatten(1).amax(1).min() > 0.1


def test_two_steps_train_on_the_device_and_leave_a_checkpoint_for_any_machine(device, tmp_path):
    records = []
    config = loop.PretrainConfig(out=str(tmp_path), steps=2, batch=32, report_every=1)
    loop.train(config, 0, device, distribute=lambda encoder: encoder, report=records.append)
    assert [record["step"] for record in records] == [1, 2]
    saved = loop.read_checkpoint(tmp_path)
    assert {tensor.device.type for tensor in saved["average"].values()} == {"cpu"}
    assert all(tensor.isfinite().all() for tensor in saved["model"].values())
