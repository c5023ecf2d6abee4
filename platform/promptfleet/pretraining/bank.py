"""Bank of glyphs as distance fields, so that stroke width becomes one threshold.

Printed glyphs come from the fonts that matplotlib ships (signed distance to the outline), pen glyphs from
:mod:`promptfleet.pretraining.strokes` (distance to the skeleton). Both in pixels of a 48 x 48 canvas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import distance_transform_edt

from promptfleet.pretraining import strokes

CANVAS, BOX = 48, 32  # pixels: the field, and the part of it that a glyph fills
FINE = 3  # distances are measured on a canvas this many times finer

DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
GLYPHS = tuple(strokes.DIGITS) + tuple(strokes.LETTERS) + tuple(strokes.SHAPES)  # class index -> glyph

FONTS = (
    *(f"DejaVu{family}{face}" for family in ("Sans", "SansMono") for face in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{face}" for face in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{face}" for face in ("", "Bol", "Italic", "BolIta")),
    *("cmr10", "cmb10", "cmss10", "cmtt10", "cmti10"),
)


@dataclass(frozen=True)
class GlyphBank:
    """Distance fields with the label and style of each glyph.

    fields: ``[glyphs, 48, 48]`` float32, pixels, negative inside an outline. label: ``[glyphs]`` int64, index into
    ``GLYPHS``. is_pen, is_bold, is_slanted: ``[glyphs]`` bool (bold and slanted as the font says; never for pens).
    """

    fields: torch.Tensor
    label: torch.Tensor
    is_pen: torch.Tensor
    is_bold: torch.Tensor
    is_slanted: torch.Tensor

    def to(self, device: torch.device) -> GlyphBank:
        return GlyphBank(**{name: tensor.to(device) for name, tensor in vars(self).items()})


def build_bank(
    rng: np.random.Generator, *, fonts: Sequence[str] = FONTS, pens_per_digit: int = 300, pens_per_other: int = 40
) -> GlyphBank:
    """Every digit and letter in each font, and ``pens_per_*`` jittered drawings of every digit, letter and shape."""
    fields, label, kind = [], [], []
    for font in fonts:
        bold = "Bol" in font or font == "cmb10"
        slanted = "Ita" in font or "Obl" in font or font == "cmti10"
        for index, glyph in enumerate(GLYPHS):
            if len(glyph) == 1:
                fields.append(outline_field(glyph, font))
                label.append(index)
                kind.append((False, bold, slanted))
    drawings = strokes.DIGITS | strokes.LETTERS | strokes.SHAPES
    for index, glyph in enumerate(GLYPHS):
        for number in range(pens_per_digit if glyph in strokes.DIGITS else pens_per_other):
            fields.append(pen_field(drawings[glyph][number % len(drawings[glyph])], rng))
            label.append(index)
            kind.append((True, False, False))
    flags = torch.tensor(kind)
    return GlyphBank(
        fields=torch.from_numpy(np.stack(fields)).float(),
        label=torch.tensor(label),
        is_pen=flags[:, 0],
        is_bold=flags[:, 1],
        is_slanted=flags[:, 2],
    )


def outline_field(glyph: str, font: str) -> np.ndarray:
    """Return the signed distance to a printed glyph's outline, ``[48, 48]``, its size fitted to the box."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    face = ImageFont.truetype(str(folder / f"{font}.ttf"), 160)
    left, top, right, bottom = face.getbbox(glyph)
    image = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(image).text((-left, -top), glyph, fill=255, font=face)
    scale = BOX * FINE / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    canvas = Image.new("L", (CANVAS * FINE, CANVAS * FINE))
    canvas.paste(image.resize((width, height)), ((CANVAS * FINE - width) // 2, (CANVAS * FINE - height) // 2))
    ink = np.asarray(canvas) > 127
    return _average(distance_transform_edt(~ink) - distance_transform_edt(ink))


def pen_field(drawing: str, rng: np.random.Generator) -> np.ndarray:
    """Return the distance to a jittered pen drawing, ``[48, 48]``, of a random width (0.45 to 1 times its height)."""
    lines = [strokes.curve(points) for points in strokes.jitter(strokes.parse(drawing), rng.uniform(0.01, 0.07), rng)]
    size = BOX * np.array([rng.uniform(0.45, 1.0), 1.0])
    canvas = Image.new("1", (CANVAS * FINE, CANVAS * FINE))
    for line in lines:
        pixels = ((line - 0.5) * size + CANVAS / 2) * FINE
        ImageDraw.Draw(canvas).line([tuple(point) for point in pixels], fill=1)
    return _average(distance_transform_edt(~np.asarray(canvas)))


def _average(field: np.ndarray) -> np.ndarray:
    """Average a field on the fine canvas, in fine pixels, to one on the canvas, in its pixels."""
    return (field.reshape(CANVAS, FINE, CANVAS, FINE).mean((1, 3)) / FINE).astype(np.float32)
