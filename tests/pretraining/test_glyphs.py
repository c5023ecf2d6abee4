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
    assert rendered.images.shape == (64, 32, 32)
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


def test_nearly_every_image_shows_something(bank):
    images = render(bank, seed=1, count=256).images
    contrast = images.flatten(1).amax(1) - images.flatten(1).amin(1)
    assert (contrast > 0.3).float().mean() > 0.95


def test_a_style_is_either_handwritten_or_printed(bank):
    styles = render(bank, seed=2).styles
    pen, print_ = (styles[:, glyphs.STYLES.index(name)] for name in ("handwritten", "printed"))
    assert torch.equal(pen, ~print_)


def test_inverted_images_are_bright(bank):
    rendered = render(bank, seed=4, count=256)
    inverted = rendered.styles[:, glyphs.STYLES.index("inverted")]
    brightness = rendered.images.mean((1, 2))
    assert 10 < inverted.sum() < 60
    assert brightness[inverted].mean() > 0.6 > 0.4 > brightness[~inverted].mean()


@pytest.mark.parametrize("size", [8, 12, 32])
def test_enlarging_is_what_pil_does(size):
    small = np.random.default_rng(0).integers(70, 186, (size, size)).astype(np.uint8)  # no overshoot to clip
    expected = np.asarray(Image.fromarray(small).resize((32, 32), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    matrix = glyphs._bicubic_matrix(size)
    ours = (matrix @ torch.from_numpy(small / np.float32(255)) @ matrix.T).clamp(0, 1)
    assert np.abs(ours.numpy() - expected).max() < 0.01  # PIL rounds to 8 bits after each of its two passes


def test_normalize_gives_three_equal_channels_with_the_given_statistics():
    images = torch.full((2, 32, 32), 0.65)
    normal = glyphs.normalize(images, mean=[0.3] * 3, std=[0.35] * 3)
    assert normal.shape == (2, 3, 32, 32)
    assert torch.allclose(normal, torch.ones(2, 3, 32, 32))


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
