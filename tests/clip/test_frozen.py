import torch

from promptfleet.clip.frozen import FrozenClip
from promptfleet.clip.prompt_encoder import encode_prompts
from tests.fakes import tiny_clip


def test_tensors_and_settings_are_everything():
    clip = tiny_clip(quick_gelu=True, layers=3)
    tensors, settings = clip.tensors(), clip.settings()
    again = FrozenClip.from_tensors(tensors, settings)
    assert again.settings() == settings == {"layers": 3, "heads": 2, "quick_gelu": True, "logit_scale": 20.0}
    assert again.tensors().keys() == tensors.keys()
    assert all(again.tensors()[name] is tensor for name, tensor in tensors.items())
    context = torch.ones(1, 2, clip.tower.width)
    assert torch.equal(
        encode_prompts(again.tower, again.classes, context), encode_prompts(clip.tower, clip.classes, context)
    )


def test_moving_moves_every_tensor():
    moved = tiny_clip().to("meta")
    assert {tensor.device.type for tensor in moved.tensors().values()} == {"meta"}
