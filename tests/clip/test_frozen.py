from dataclasses import replace

import torch

from promptfleet.clip.frozen import FrozenClip
from promptfleet.clip.prompt_encoder import encode_prompts
from tests.fakes import tiny_classes, tiny_clip, tiny_tower


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


def with_texts():
    clip = tiny_clip()
    texts = {"one": tiny_classes(tiny_tower(), (2, 4)), "two": tiny_classes(tiny_tower(), (1,))}
    return replace(clip, texts=texts)


def test_further_texts_are_among_the_tensors():
    clip = with_texts()
    again = FrozenClip.from_tensors(clip.tensors(), clip.settings())
    assert again.texts.keys() == {"one", "two"}
    for key, tokens in clip.texts.items():
        assert again.texts[key].suffix is tokens.suffix
        assert again.texts[key].lengths is tokens.lengths
        assert torch.equal(again.texts[key].start, tokens.start)


def test_some_classes_have_the_features_that_they_have_among_all():
    clip, context = tiny_clip(), torch.ones(1, 2, 16)
    some = clip.take([3, 1])
    together = encode_prompts(clip.tower, clip.classes, context)
    assert torch.allclose(encode_prompts(some.tower, some.classes, context), together[:, [3, 1]], atol=1e-6)
    assert torch.equal(some.zero_shot_text, clip.zero_shot_text[[3, 1]])


def test_moving_moves_every_tensor():
    moved = with_texts().to("meta")
    assert len(moved.tensors()) == len(with_texts().tensors())
    assert {tensor.device.type for tensor in moved.tensors().values()} == {"meta"}
