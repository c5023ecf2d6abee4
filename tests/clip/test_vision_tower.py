"""The vision transformer as plain tensors against open_clip's modules, and against tokens inserted by hand."""

import re

import open_clip
import pytest
import torch
import torch.nn.functional as F

from promptfleet.clip.backbone import load_backbone
from promptfleet.clip.image_tower import ImageTower
from promptfleet.clip.vision_tower import encode_pixels, encode_tokens, vision_tower_of
from promptfleet.config import BackboneConfig
from promptfleet.errors import BackboneError
from tests.clip.small_models import VISION

NO_TEXT = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}


def image_side(name):
    """Return open_clip's image tower with weights that are all random, and the architecture."""
    if name == "glyph-clip":
        backbone = load_backbone(BackboneConfig())
        return backbone.model.visual, backbone.architecture
    architecture = open_clip.get_model_config(name.removesuffix("-quickgelu"))
    architecture["quick_gelu"] = name.endswith("-quickgelu")
    torch.manual_seed(0)
    vision, quick_gelu = architecture["vision_cfg"], architecture["quick_gelu"]
    visual = open_clip.CLIP(architecture["embed_dim"], vision, NO_TEXT, quick_gelu=quick_gelu).visual
    for weight in visual.eval().requires_grad_(False).parameters():
        weight.add_(torch.randn_like(weight), alpha=0.01)
    return visual, architecture


def by_hand(visual, pixels, inserted, pooled):
    """Return what open_clip's modules make of pixels, with tokens inserted between them."""
    x = visual._embeds(pixels)
    for layer, block in enumerate(visual.transformer.resblocks):
        if layer in inserted:
            x = torch.cat([x[:, :1], inserted[layer], x[:, 1:]], dim=1)
        x = block(x)
    return F.normalize(visual.ln_post(x)[:, :pooled].mean(dim=1) @ visual.proj, dim=-1), x.shape[1]


def with_gradients(encode, leaves, direction):
    """Return features, and the gradients of their product with ``direction`` at the leaves."""
    fresh = [leaf.clone().requires_grad_() for leaf in leaves]
    features = encode(*fresh)
    return features.detach(), torch.autograd.grad((features * direction).sum(), fresh)


def assert_close(ours, theirs):
    assert torch.allclose(ours[0], theirs[0], rtol=0, atol=1e-5)
    for mine, wanted in zip(ours[1], theirs[1], strict=True):
        assert float((mine - wanted).norm()) <= 1e-5 * float(wanted.norm())
        assert float(wanted.norm()) > 0


@pytest.mark.parametrize(
    "name",
    [
        "glyph-clip",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("ViT-B-32-quickgelu", "ViT-B-16", "ViT-L-14")),
    ],
)
def test_features_and_gradients_are_open_clips_with_and_without_tokens(name):
    visual, architecture = image_side(name)
    image = ImageTower(dict(visual.named_parameters()), architecture, {"size": visual.image_size})
    tower, layers = image.vision, len(visual.transformer.resblocks)
    generator, images = torch.Generator().manual_seed(1), 1 if name == "ViT-L-14" else 2  # to save memory
    pixels = torch.randn(images, 3, *image.image_size, generator=generator)
    direction = torch.randn(images, tower.dim, generator=generator)
    assert_close(
        with_gradients(image, [pixels], direction),
        with_gradients(lambda x: F.normalize(visual(x), dim=-1), [pixels], direction),
    )
    first, middle = (torch.randn(images, count, tower.width, generator=generator) for count in (1, 3))

    def ours(x, *tokens):
        return encode_pixels(tower, x, {0: tokens[0], layers // 2: tokens[1]}, pooled=4)

    def theirs(x, *tokens):
        features, count = by_hand(visual, x, {0: tokens[0], layers // 2: tokens[1]}, pooled=4)
        assert count == tower.positions + 4
        return features

    assert_close(*(with_gradients(encode, [pixels, first, middle], direction) for encode in (ours, theirs)))


def test_an_image_has_the_same_bits_alone_and_among_others():
    visual, architecture = image_side("glyph-clip")
    tower = vision_tower_of(dict(visual.named_parameters()), architecture)
    generator = torch.Generator().manual_seed(0)
    pixels, tokens = torch.randn(9, 3, 32, 32, generator=generator), torch.randn(9, 2, 128, generator=generator)
    direction = torch.randn(9, 128, generator=generator)

    def run(some):
        encode = lambda x, t: encode_pixels(tower, x, {1: t}, pooled=2)  # noqa: E731
        return with_gradients(encode, [pixels[some], tokens[some]], direction[some])

    features, gradients = run(slice(None))
    for some in (slice(0, 4), slice(4, 5), slice(5, 9)):
        mine, own = run(some)
        assert torch.equal(mine, features[some])
        assert all(torch.equal(one, both[some]) for one, both in zip(own, gradients, strict=True))


def test_fewer_blocks_give_the_tokens_after_them():
    visual, architecture = image_side("glyph-clip")
    tower = vision_tower_of(dict(visual.named_parameters()), architecture)
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    x = visual._embeds(pixels)
    for block in visual.transformer.resblocks[:2]:
        x = block(x)
    assert torch.allclose(encode_tokens(tower, pixels, wanted=3, blocks=2), visual.ln_post(x)[:, :3], atol=1e-5)


@pytest.mark.parametrize(
    ("vision", "reason"),
    [
        ({"layers": [1, 1, 1, 1]}, "its image tower is a ModifiedResNet, which has no tokens; take a vision transf"),
        ({"timm_model_name": "resnet18"}, "its image tower is timm's resnet18, not open_clip's"),
        ({"pool_type": "avg"}, "unsupported image tower (pool_type)"),
        ({"ls_init_value": 0.1}, "unsupported image tower (ls_init_value)"),
        ({"no_ln_pre": True}, "unsupported image tower (no_ln_pre)"),
    ],
    ids=str,
)
def test_other_image_towers_are_refused(vision, reason):
    with pytest.raises(BackboneError, match=f"^backbone 'this model': {re.escape(reason)}"):
        vision_tower_of({}, {"vision_cfg": {**VISION, **vision}})


def test_weights_that_are_missing_are_named():
    with pytest.raises(BackboneError, match=r"unsupported image tower \(class_embedding\)$"):
        vision_tower_of({}, {"vision_cfg": VISION})
