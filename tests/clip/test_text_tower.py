import re

import open_clip
import pytest
from torch import nn

from promptfleet.clip.text_tower import text_tower_of
from promptfleet.errors import BackboneError
from tests.clip.small_models import MODEL, TEXT, VISION, assert_same_text_features, small_model


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
