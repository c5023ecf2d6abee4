"""Patch features against the towers' own parts, recomputed here token by token."""

import open_clip
import pytest
import torch
import torch.nn.functional as F

from promptfleet.clip.backbone import load_backbone
from promptfleet.clip.patches import PatchEncoder
from promptfleet.config import BackboneConfig
from promptfleet.errors import BackboneError

TEXT = {"context_length": 8, "vocab_size": 30, "width": 16, "heads": 2, "layers": 1}


def small_clip(**vision) -> torch.nn.Module:
    torch.manual_seed(0)
    model = open_clip.CLIP(embed_dim=12, vision_cfg=vision, text_cfg=TEXT).eval().requires_grad_(False)
    for norm in (module for module in model.visual.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)  # open_clip starts some at 0, which would hide whole branches
    return model


@pytest.fixture(scope="module")
def transformer():
    return small_clip(image_size=32, layers=2, width=16, head_width=8, patch_size=8)


@pytest.fixture(scope="module")
def resnet():
    return small_clip(image_size=64, layers=[1, 1, 1, 1], width=8, head_width=8)


def captured(module: torch.nn.Module, run, *, inputs: bool = False) -> torch.Tensor:
    """Return the output (or the input) of ``module`` while ``run`` runs."""
    kept = []
    handle = module.register_forward_hook(lambda _, taken, given: kept.append(taken[0] if inputs else given))
    run()
    handle.remove()
    return kept[0]


@pytest.mark.parametrize("kind", ["transformer", "resnet"])
@torch.inference_mode()
def test_global_features_are_those_of_the_model(kind, request):
    model = request.getfixturevalue(kind)
    side = model.visual.image_size[0] if kind == "transformer" else model.visual.image_size
    pixels = torch.randn(3, 3, side, side)
    features, patches = PatchEncoder(model, "small")(pixels)
    assert torch.equal(features, model.encode_image(pixels, normalize=True))
    assert patches.shape == (3, 16 if kind == "transformer" else 4, 12)
    torch.testing.assert_close(patches.norm(dim=-1), torch.ones(patches.shape[:2]))
    assert torch.equal(model.encode_image(pixels, normalize=True), features)  # and the model is as it was


@torch.inference_mode()
def test_a_transformers_patches_take_the_class_tokens_path(transformer):
    pixels, visual = torch.randn(2, 3, 32, 32), transformer.visual
    tokens = captured(visual.transformer, lambda: visual(pixels))
    projected = F.normalize(visual.ln_post(tokens) @ visual.proj, dim=-1)
    features, patches = PatchEncoder(transformer, "small")(pixels)
    torch.testing.assert_close(projected[:, 0], features)
    torch.testing.assert_close(projected[:, 1:], patches)


@torch.inference_mode()
def test_a_resnets_patches_are_its_pool_with_each_token_as_the_query(resnet):
    pixels, pool = torch.randn(2, 3, 64, 64), resnet.visual.attnpool
    maps = captured(pool, lambda: resnet.visual(pixels), inputs=True)
    cells = maps.flatten(2).transpose(1, 2)
    tokens = torch.cat([cells.mean(dim=1, keepdim=True), cells], dim=1) + pool.positional_embedding

    def heads(projected: torch.Tensor) -> torch.Tensor:
        return projected.unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)

    def attended(query: torch.Tensor) -> torch.Tensor:
        keys, values = heads(pool.k_proj(tokens)), heads(pool.v_proj(tokens))
        mixed = F.scaled_dot_product_attention(heads(pool.q_proj(query)), keys, values)
        return F.normalize(pool.c_proj(mixed.transpose(1, 2).flatten(-2)), dim=-1)[:, 0]

    features, patches = PatchEncoder(resnet, "small")(pixels)
    torch.testing.assert_close(attended(tokens[:, :1]), features)
    for patch in range(4):
        torch.testing.assert_close(attended(tokens[:, 1 + patch : 2 + patch]), patches[:, patch])


def test_glyph_clip_has_patches():
    features, patches = PatchEncoder(load_backbone(BackboneConfig()).model, "glyph-clip")(torch.zeros(1, 3, 32, 32))
    assert (features.shape, patches.shape) == ((1, 128), (1, 16, 128))


@pytest.mark.parametrize(
    "changes", [{"final_ln_after_pool": True}, {"pool_type": "avg"}, {"attentional_pool": True, "attn_pooler_heads": 2}]
)
def test_other_towers_are_refused(changes):
    model = small_clip(image_size=32, layers=1, width=16, head_width=8, patch_size=8, **changes)
    with pytest.raises(BackboneError, match=r"^backbone 'odd': no patch features of its image tower \(VisionTransfo"):
        PatchEncoder(model, "odd")
