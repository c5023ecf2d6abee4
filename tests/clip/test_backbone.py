import json
import re

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from promptfleet.clip.backbone import load_backbone, text_tower_of
from promptfleet.clip.plain_encoder import encode_texts
from promptfleet.config import BackboneConfig
from promptfleet.errors import BackboneError

VISION = {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
TEXTS = ["a cat.", "a photo of a golden retriever.", "7"]
MODEL = "Tiny-Test-ViT"


def local(path):
    return BackboneConfig(name=MODEL, checkpoint=str(path))


def small_model(model_class=open_clip.CLIP, quick_gelu=False, **text):
    torch.manual_seed(0)
    return model_class(24, VISION, {**TEXT, **text}, quick_gelu=quick_gelu).eval().requires_grad_(False)


def assert_same_text_features(tower, model):
    token_ids = open_clip.tokenize(TEXTS)
    theirs = model.encode_text(token_ids, normalize=True)
    assert torch.allclose(encode_texts(tower, token_ids), theirs, rtol=0, atol=1e-6)


# text_tower_of


@pytest.mark.parametrize("model_class", [open_clip.CLIP, open_clip.CustomTextCLIP])
@pytest.mark.parametrize("quick_gelu", [False, True])
def test_tower_gives_the_models_own_features(model_class, quick_gelu):
    model = small_model(model_class, quick_gelu)
    tower = text_tower_of(model)
    assert (tower.positions, tower.width, tower.dim, tower.layers, tower.heads) == (77, 16, 24, 2, 2)
    assert tower.quick_gelu is quick_gelu
    assert_same_text_features(tower, model)


@pytest.mark.parametrize("text", [{"mlp_ratio": 2.0}, {"heads": 4}, {"layers": 1}], ids=str)
def test_other_sizes_are_fine(text):
    model = small_model(**text)
    assert_same_text_features(text_tower_of(model), model)


def test_projection_as_a_linear_layer_is_transposed():
    model = small_model()
    weight = model.text_projection
    del model.text_projection
    model.text_projection = nn.Linear(16, 24, bias=False).requires_grad_(False)
    model.text_projection.weight.copy_(weight.T)
    assert_same_text_features(text_tower_of(model), model)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ({"no_causal_mask": True}, "its text tower is not causal, so prompts cannot share a prefix"),
        ({"pool_type": "last"}, "text features are pooled by 'last', not at CLIP's end of text"),
        ({"pool_type": "first"}, "text features are pooled by 'first', not at CLIP's end of text"),
        ({"pool_type": "eos"}, "text features are pooled by 'eos', not at CLIP's end of text"),
        ({"ls_init_value": 0.1}, "unsupported text tower (transformer.resblocks.0.ls_1.gamma)"),
        ({"scale_heads": True}, "unsupported text tower (transformer.resblocks.0.attn.head_scale)"),
        ({"qk_norm": True}, "unsupported text tower (transformer.resblocks.0.attn.ln_q.weight)"),
        ({"proj_bias": True}, "unsupported text tower (text_projection.bias)"),
        ({"proj_type": "none"}, "unsupported text tower (text_projection)"),
        ({"norm_kwargs": {"eps": 1e-3}}, "unsupported text tower (GELU(approximate='none'), layer norm epsilon 0.001)"),
        (
            {"act_kwargs": {"approximate": "tanh"}},
            "unsupported text tower (GELU(approximate='tanh'), layer norm epsilon 1e-05)",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_the_prompt_encoder_cannot_do_is_refused(text, reason):
    with pytest.raises(BackboneError, match=f"^{re.escape(f'backbone {MODEL!r}: {reason}')}$"):
        text_tower_of(small_model(**text), MODEL)


def test_a_tower_with_a_class_token_is_refused():
    model = open_clip.CoCa(24, TEXT, {**TEXT, "embed_cls": True}, VISION)
    with pytest.raises(BackboneError, match=r"^backbone 'CoCa': unsupported text tower \(cls_emb\)$"):
        text_tower_of(model, "CoCa")


def test_a_foreign_text_tower_is_refused():
    model = nn.Module()
    model.text = nn.Linear(2, 2)
    with pytest.raises(
        BackboneError, match=r"^backbone 'this model': its text tower is not open_clip's own transformer$"
    ):
        text_tower_of(model)


# load_backbone


@pytest.fixture(scope="module")
def registered(tmp_path_factory):
    """A tiny architecture that open_clip knows by name, and files with its weights."""
    folder = tmp_path_factory.mktemp("weights")
    config = folder / f"{MODEL}.json"
    config.write_text(json.dumps({"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT}))
    open_clip.add_model_config(config)
    model = small_model()
    torch.save(model.state_dict(), folder / "weights.pt")
    save_file(model.state_dict(), folder / "weights.safetensors")
    changed = model.state_dict() | {"logit_scale": torch.tensor(2.0)}
    save_file(changed, folder / "changed.safetensors")
    (folder / "garbage.pt").write_bytes(b"no weights at all")
    return folder, model


@pytest.mark.parametrize("file", ["weights.pt", "weights.safetensors"])
def test_a_local_file_of_weights_loads(registered, file):
    folder, model = registered
    backbone = load_backbone(local(folder / file))
    assert_same_text_features(backbone.tower, model)
    assert backbone.logit_scale == pytest.approx(1 / 0.07, rel=1e-5)  # CLIP's initial value
    assert backbone.name == f"{MODEL}/{file}"
    images = [Image.new("RGB", (20, 16), colour) for colour in ("red", "green", "blue")]
    features = torch.cat(list(backbone.encode_images(iter(images), batch_size=2)))
    assert features.shape == (3, 24)
    assert torch.allclose(features.norm(dim=-1), torch.ones(3), atol=1e-6)
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())


def test_fingerprint_is_that_of_the_weights_not_of_the_file(registered):
    folder, _ = registered
    prints = [load_backbone(local(folder / name)).fingerprint for name in ("weights.pt", "weights.safetensors")]
    assert prints[0] == prints[1] != load_backbone(local(folder / "changed.safetensors")).fingerprint


@pytest.mark.parametrize("file", ["missing.pt", "garbage.pt"])
def test_without_usable_weights_it_says_what_to_do(registered, file):
    path = registered[0] / file
    with pytest.raises(BackboneError) as caught:
        load_backbone(local(path))
    text = str(caught.value)
    assert text.startswith(f"backbone {MODEL}/{path}: no weights (")
    assert text.endswith(
        "). Set backbone.pretrained to one of open_clip's tags for it, with network access, or backbone.checkpoint "
        "to a file of weights"
    )
    assert "\n" not in text


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (
            {"name": "ViT-B-16"},
            "backbone.name=ViT-B-16 needs weights: set backbone.pretrained (such as openai) or backbone.checkpoint "
            "(a file)",
        ),
        (
            {"name": "ViT-B-16", "pretrained": "openai", "checkpoint": "a.pt"},
            "backbone.pretrained=openai and backbone.checkpoint=a.pt: leave one out",
        ),
        ({"pretrained": "openai"}, "backbone.name=glyph-clip brings its own weights: leave out 'openai'"),
    ],
)
def test_keys_that_do_not_fit_together(keys, text):
    with pytest.raises(BackboneError) as caught:
        load_backbone(BackboneConfig(**keys))
    assert str(caught.value) == text


def test_an_unknown_model_gets_the_nearest():
    with pytest.raises(BackboneError, match=r"^open_clip has no model 'ViT-B16'; did you mean 'ViT-B-16'\?$"):
        load_backbone(BackboneConfig(name="ViT-B16", pretrained="openai"))
    with pytest.raises(BackboneError, match=r"^open_clip has no model '%%%'$"):
        load_backbone(BackboneConfig(name="%%%", pretrained="openai"))


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
    batches = list(glyph_clip.encode_images(iter(images), batch_size=2))
    assert [batch.shape for batch in batches] == [(2, 128), (1, 128)]
    assert torch.allclose(torch.cat(batches).norm(dim=-1), torch.ones(3), atol=1e-6)
    again = torch.cat(list(glyph_clip.encode_images(images, batch_size=1)))
    assert torch.allclose(torch.cat(batches), again, atol=1e-5)


def test_glyph_clips_fingerprint_is_always_the_same(glyph_clip):
    assert load_backbone(BackboneConfig()).fingerprint == glyph_clip.fingerprint
    assert re.fullmatch(r"[0-9a-f]{64}", glyph_clip.fingerprint)
