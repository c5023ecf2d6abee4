"""The renderer: what it draws, and that it depends on its generators alone."""

import numpy as np
import pytest
import torch
from PIL import Image

from promptfleet.pretraining import bank as glyph_bank
from promptfleet.pretraining import glyphs, strokes


@pytest.fixture(scope="module")
def bank():
    return glyph_bank.build_bank(np.random.default_rng(3), pens_per_digit=6, pens_per_other=1)


def render(bank, seed, count=64):
    rng = torch.Generator().manual_seed(seed)
    return glyphs.render(bank, torch.randint(len(bank.label), (count,), generator=rng), rng)


def test_bank_is_a_function_of_its_generator():
    drawings = [glyph_bank.pen_field(strokes.DIGITS["8"][0], np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(drawings[0], drawings[1])
    assert not np.array_equal(drawings[0], drawings[2])


def test_bank_holds_every_class_in_pen_and_every_character_in_every_font(bank):
    counts = torch.bincount(bank.label[~bank.is_pen], minlength=len(glyph_bank.GLYPHS))
    assert (counts[:62] == len(glyph_bank.FONTS)).all()
    assert (counts[62:] == 0).all()
    assert (torch.bincount(bank.label[bank.is_pen])[:10] == 6).all()
    assert (torch.bincount(bank.label[bank.is_pen])[10:] == 1).all()


def test_no_font_lacks_a_character(bank):
    """A missing character is drawn as the same box as every other missing one."""
    printed = bank.fields[~bank.is_pen]
    assert len(torch.unique(printed.flatten(1), dim=0)) > 0.98 * len(printed)


def test_outlines_are_signed_and_pens_are_not(bank):
    assert (bank.fields[~bank.is_pen].flatten(1).amin(1) < 0).all()
    assert (bank.fields[bank.is_pen] >= 0).all()


def test_images_have_the_stated_shapes_and_range(bank):
    rendered = render(bank, seed=0)
    assert rendered.images.shape == (64, 3, 32, 32)
    assert rendered.images.dtype == torch.float32
    assert rendered.images.min() >= 0
    assert rendered.images.max() <= 1
    assert rendered.label.shape == (64,)
    assert rendered.styles.shape == (64, len(glyphs.STYLES))
    assert rendered.styles.dtype == torch.bool


def test_rendering_is_a_function_of_the_generator(bank):
    first, again, other = render(bank, 5), render(bank, 5), render(bank, 6)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.styles, again.styles)
    assert not torch.equal(first.images, other.images)


@pytest.fixture(scope="module")
def many(bank):
    """2,000 images, their grey values ``[2000, 32, 32]``, and which of them have a style."""
    rendered = render(bank, seed=1, count=2000)
    return rendered.images.amax(1), lambda style: rendered.styles[:, glyphs.STYLES.index(style)]


def test_nearly_every_image_shows_something(many):
    images, has = many
    contrast = images.flatten(1).amax(1) - images.flatten(1).amin(1)
    assert (contrast[~has("faint")] > 0.3).float().mean() > 0.95


@pytest.mark.parametrize("styles", [("handwritten", "printed"), ("inverted", "bright"), tuple(glyphs.COLOURS)])
def test_each_image_has_one_of_these_styles(many, styles):
    assert (sum(many[1](style).long() for style in styles) == 1).all()


@pytest.mark.parametrize("style", glyphs.STYLES)
def test_each_style_is_true_of_some_images_and_false_of_others(many, style):
    assert 0.02 < many[1](style).float().mean() < 0.85


@pytest.mark.parametrize(
    ("style", "measure", "other"),
    [
        ("inverted", lambda images: images.mean((1, 2)), "bright"),
        ("bold", lambda images: (images > 0.5).float().mean((1, 2)), "thin"),
        ("sharp", lambda images: images.diff(dim=2).abs().amax((1, 2)), "blurred"),
        ("large", lambda images: (images > 0.3).any(2).float().sum(1), "small"),
        ("wide", lambda images: (images > 0.3).any(1).float().sum(1), "narrow"),
        ("right", lambda images: centre(images, 1), "left"),
        ("low", lambda images: centre(images, 2), "high"),
        ("noisy", lambda images: images[:, :2, :2].std((1, 2)), "clean"),
    ],
)
def test_styles_can_be_seen(many, style, measure, other):
    """Among bright images, unless it is about them, the measure is larger with the style than with the other one."""
    images, has = many
    plain = torch.ones(len(images), dtype=torch.bool) if style == "inverted" else has("bright")
    values = measure(images)
    assert values[has(style) & plain].median() > 1.2 * values[has(other) & plain].median()


def centre(images, axis):
    """Mean place of the ink along x (1) or y (2)."""
    ink = images.sum(axis)
    return (ink * torch.arange(glyphs.SIZE)).sum(1) / ink.sum(1)


def test_faint_images_have_less_contrast(many):
    images, has = many
    contrast = images.flatten(1).amax(1) - images.flatten(1).amin(1)
    assert contrast[has("faint")].max() <= 0.5 + 1e-6 < contrast[~has("faint")].median()


def test_colours_are_those_of_the_channels(bank):
    rendered = render(bank, seed=2, count=500)
    for name, tint in glyphs.COLOURS.items():
        images = rendered.images[rendered.styles[:, glyphs.STYLES.index(name)]]
        strongest = images.amax(1)
        assert torch.allclose(images, strongest[:, None] * torch.tensor(tint)[:, None, None] / max(tint), atol=1e-6)


@pytest.mark.parametrize("deviation", glyphs.BLURS)
def test_blur_keeps_flat_images_and_spreads_a_line_by_its_deviation(deviation):
    matrix = glyphs._blur_matrix(deviation)
    assert torch.allclose(matrix.sum(1), torch.ones(glyphs.SIZE))
    spread = (matrix[:, 16] * (torch.arange(glyphs.SIZE) - 16) ** 2).sum().sqrt()
    assert spread.item() == pytest.approx(deviation, rel=0.05)


@pytest.mark.parametrize("size", [8, 12, 32])
def test_enlarging_is_what_pil_does(size):
    small = np.random.default_rng(0).integers(70, 186, (size, size)).astype(np.uint8)  # no overshoot to clip
    expected = np.asarray(Image.fromarray(small).resize((32, 32), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    matrix = glyphs._bicubic_matrix(size)
    ours = (matrix @ torch.from_numpy(small / np.float32(255)) @ matrix.T).clamp(0, 1)
    assert np.abs(ours.numpy() - expected).max() < 0.01  # PIL rounds to 8 bits after each of its two passes


def test_normalize_has_the_given_statistics_per_channel():
    images = torch.full((2, 3, 32, 32), 0.65)
    normal = glyphs.normalize(images, mean=[0.3, 0.3, 0.65], std=[0.35, 0.7, 0.1])
    assert torch.allclose(normal[:, :, 0, 0], torch.tensor([1.0, 0.5, 0.0]).expand(2, 3), atol=1e-6)


def test_a_curve_passes_its_points_and_keeps_corners_sharp():
    points = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 1.0]])  # an L with its corner at (1, 0)
    line = strokes.curve(points)
    assert any((line == [1.0, 0.0]).all(1))
    assert all(x == 1 or y == 0 for x, y in line)


def test_jitter_moves_both_halves_of_a_corner_together():
    (points,) = strokes.jitter(
        [np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 1.0]])], 0.1, np.random.default_rng(0)
    )
    assert np.array_equal(points[1], points[2])
    assert not np.array_equal(points[0], [0.0, 0.0])
