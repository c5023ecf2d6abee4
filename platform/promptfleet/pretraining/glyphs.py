"""Batched rendering of distance fields into training images: all in torch, on the device of the generator.

field -> affine and elastic warp -> fit to the box -> stroke width -> area average to a low resolution -> contrast,
noise, 17 grey levels -> bicubic to 32 x 32 (the kernel PIL uses) -> blur, background, faintness, inversion, colour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from promptfleet.pretraining.bank import CANVAS, GlyphBank

SIZE = 32
RESOLUTIONS = ((8, 0.6), (10, 0.1), (12, 0.08), (16, 0.1), (32, 0.12))  # pixels, share of the images
COLOURS = {
    "red": (1.0, 0.15, 0.15),
    "green": (0.2, 0.9, 0.25),
    "blue": (0.25, 0.35, 1.0),
    "yellow": (0.95, 0.9, 0.15),
    "grey": (1.0, 1.0, 1.0),
}
COLOURED = 0.2  # share of the images
BLURS = (0.0, 1.5, 2.5)  # standard deviations in pixels; the second and third are drawn equally often
STYLES = (  # columns of Rendered.styles
    *("handwritten", "printed", "bold", "medium", "thin", "slanted", "upright", "rotated", "inverted", "bright"),
    *("faint", "noisy", "clean", "blurred", "pixelated", "sharp", "small", "large", "left", "right", "high", "low"),
    *("narrow", "wide", "striped", "shaded", *COLOURS),
)


@dataclass(frozen=True)
class Rendered:
    """Images ``[batch, 3, 32, 32]`` in 0..1, with ``label [batch]`` and ``styles [batch, len(STYLES)]`` bool."""

    images: Tensor
    label: Tensor
    styles: Tensor

    def to(self, device: torch.device) -> Rendered:
        return Rendered(self.images.to(device), self.label.to(device), self.styles.to(device))


@dataclass(frozen=True)
class Placement:
    """Size and centre of each glyph in the image, in pixels: four ``[batch]`` tensors."""

    width: Tensor
    height: Tensor
    x: Tensor
    y: Tensor


def render(bank: GlyphBank, index: Tensor, rng: torch.Generator) -> Rendered:
    """Draw the glyphs ``index`` of the bank, each with its own random distortions; a function of ``rng`` alone.

    bank, index and rng are on one device.
    """
    batch = len(index)
    uniform = partial(_uniform, rng, batch)
    is_pen, is_italic = bank.is_pen[index], bank.is_slanted[index]
    radius = torch.where(is_pen, uniform(0.9, 3.6), uniform(-0.2, 1.8))
    shear = uniform(-0.45, 0.45)
    elastic = uniform(0.0, 0.13)
    angle = uniform(-0.26, 0.26)
    rotated = uniform(0, 1) < 0.15
    angle = torch.where(rotated, torch.where(angle < 0, -1.0, 1.0) * uniform(0.35, 0.7), angle)
    field = _warp(bank.fields[index], shear, angle, elastic, rng)
    field, place = _fit(field, radius, rng)
    ink = torch.sigmoid((radius[:, None, None] - field) / 0.35)
    noise = torch.where(uniform(0, 1) < 0.2, uniform(0.05, 0.25), uniform(0, 1) ** 3 * 0.05)
    images, resolution = _to_resolution(ink, noise, rng)
    images, blur = _blur(images, rng)
    images, background = _on_background(images, rng)
    faint = uniform(0, 1) < 0.15
    images = images * torch.where(faint, uniform(0.3, 0.5), 1.0)[:, None, None]
    inverted = uniform(0, 1) < 0.25
    images = torch.where(inverted[:, None, None], 1 - images, images)
    images, colour = _colour(images, rng)
    width = torch.where(is_pen, (radius - 0.9) / 2.7, 0.35 * bank.is_bold[index] + (radius + 0.2) / 3.1)
    by_hand = is_pen | (elastic > 0.065)  # strongly bent print counts as handwriting
    slanted = (shear.abs() > 0.25) | (is_italic & (shear > -0.1))  # unless the shear rights an italic
    true = {
        "handwritten": by_hand,
        "printed": ~by_hand,
        "bold": width > 0.65,
        "medium": (width > 0.35) & (width < 0.55),
        "thin": width < 0.25,
        "slanted": slanted & ~rotated,
        "upright": (shear.abs() < 0.15) & ~is_italic & ~rotated & (angle.abs() < 0.15),
        "rotated": rotated,
        "inverted": inverted,
        "bright": ~inverted,
        "faint": faint,
        "noisy": noise >= 0.05,
        "clean": (noise < 0.02) & (background == 0),
        "blurred": blur > 0,
        "pixelated": (resolution <= 10) & (blur == 0),
        "sharp": (resolution >= 16) & (blur == 0),
        "small": place.height < 0.62 * SIZE,
        "large": place.height > 0.88 * SIZE,
        "left": place.x < 0.42 * SIZE,
        "right": place.x > 0.58 * SIZE,
        "high": place.y < 0.42 * SIZE,
        "low": place.y > 0.58 * SIZE,
        "narrow": place.width < 0.5 * place.height,
        "wide": place.width > 0.85 * place.height,
        "striped": background == 1,
        "shaded": background == 2,
        **{name: colour == number for number, name in enumerate(COLOURS)},
    }
    return Rendered(images, bank.label[index], torch.stack([true[name] for name in STYLES], dim=1))


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Turn ``[batch, 3, 32, 32]`` in 0..1 into the model's input, of the same shape."""
    mean, std = (images.new_tensor(values)[:, None, None] for values in (mean, std))
    return (images - mean) / std


def _uniform(rng: torch.Generator, batch: int, low: float, high: float) -> Tensor:
    return torch.empty(batch, device=rng.device).uniform_(low, high, generator=rng)


def _warp(field: Tensor, shear: Tensor, angle: Tensor, elastic: Tensor, rng: torch.Generator) -> Tensor:
    """Rotate, shear and bend ``[batch, 48, 48]``; ``elastic`` is the displacement's size in half canvases."""
    batch = len(field)
    matrix = field.new_zeros(batch, 2, 3)
    matrix[:, 0, 0], matrix[:, 0, 1] = angle.cos(), shear - angle.sin()
    matrix[:, 1, 0], matrix[:, 1, 1] = angle.sin(), angle.cos()
    grid = F.affine_grid(matrix, [batch, 1, CANVAS, CANVAS], align_corners=False)
    coarse = torch.randn(batch, 2, 5, 5, generator=rng, device=rng.device) * elastic[:, None, None, None]
    bend = F.interpolate(coarse, size=CANVAS, mode="bicubic", align_corners=True)
    return _sample(field, grid + bend.permute(0, 2, 3, 1))


def _fit(field: Tensor, radius: Tensor, rng: torch.Generator) -> tuple[Tensor, Placement]:
    """Cut out the inked box and place it in 32 x 32: mostly filling the height, sometimes smaller and off centre."""
    batch = len(field)
    uniform = partial(_uniform, rng, batch)
    fills = uniform(0, 1) < 0.75
    height = torch.where(fills, uniform(0.9, 1.04), uniform(0.45, 0.9)) * SIZE
    stretch, slack_x, slack_y = uniform(0.75, 1.25), uniform(-0.5, 0.5), uniform(-0.5, 0.5)
    inked = field < radius[:, None, None]
    boxes = []
    for axis in (1, 2):  # reduce over rows gives the x extent, over columns the y extent
        line = inked.any(axis)
        first = line.float().argmax(1)
        last = CANVAS - line.flip(1).float().argmax(1)
        boxes.append((first.float(), last.float()))
    (x0, x1), (y0, y1) = boxes
    source_width, source_height = (x1 - x0).clamp(min=2), (y1 - y0).clamp(min=2)
    zoom = (height / source_height).clamp(max=1.6 * SIZE / CANVAS)
    zoom_x = torch.minimum(zoom * stretch, SIZE * 1.02 / source_width)
    free_x, free_y = (SIZE - source_width * zoom_x).clamp(min=0), (SIZE - source_height * zoom).clamp(min=0)
    wander = torch.where(fills, 0.3, 1.0)
    centre_x, centre_y = SIZE / 2 + free_x * slack_x * wander, SIZE / 2 + free_y * slack_y * wander
    matrix = field.new_zeros(batch, 2, 3)  # output in -1..1 of 32 pixels -> source in -1..1 of 48 pixels
    matrix[:, 0, 0], matrix[:, 1, 1] = SIZE / (zoom_x * CANVAS), SIZE / (zoom * CANVAS)
    matrix[:, 0, 2] = ((x0 + x1) / 2 + (SIZE / 2 - centre_x) / zoom_x) * 2 / CANVAS - 1
    matrix[:, 1, 2] = ((y0 + y1) / 2 + (SIZE / 2 - centre_y) / zoom) * 2 / CANVAS - 1
    grid = F.affine_grid(matrix, [batch, 1, SIZE, SIZE], align_corners=False)
    return _sample(field, grid), Placement(source_width * zoom_x, source_height * zoom, centre_x, centre_y)


def _sample(field: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(field[:, None], grid, mode="bilinear", padding_mode="border", align_corners=False)[:, 0]


def _to_resolution(ink: Tensor, noise: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Area-average to a random resolution, add contrast and noise there, quantize, and enlarge again.

    Half of the images get their noise after that. Returns the images and ``[batch]`` resolutions in pixels.
    """
    batch, device = len(ink), rng.device
    gain = torch.empty(batch, 1, 1, device=device).uniform_(0.75, 1.3, generator=rng)
    gamma = torch.empty(batch, 1, 1, device=device).uniform_(0.7, 1.4, generator=rng)
    share = torch.tensor([part for _, part in RESOLUTIONS], device=device)
    choice = torch.multinomial(share, batch, replacement=True, generator=rng)
    is_late = torch.rand(batch, generator=rng, device=device) < 0.5
    images = torch.empty_like(ink)
    for number, (size, _) in enumerate(RESOLUTIONS):
        rows = (choice == number).nonzero()[:, 0]
        down, up = _area_matrix(size).to(device), _bicubic_matrix(size).to(device)
        small = ((down @ ink[rows] @ down.T).clamp(0, 1) ** gamma[rows] * gain[rows]).clamp(0, 1)
        early = torch.where(is_late, 0.0, noise)[rows, None, None]
        small = small + torch.randn(small.shape, generator=rng, device=device) * early
        small = (small.clamp(0, 1) * 16).round() / 16
        images[rows] = up @ small @ up.T
    late = torch.where(is_late, noise, 0.0)[:, None, None]
    images = images + torch.randn(images.shape, generator=rng, device=device) * late
    return images.clamp(0, 1), torch.tensor([size for size, _ in RESOLUTIONS], device=device)[choice]


def _blur(images: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Blur 12 % of the images; returns them and ``[batch]`` indices into ``BLURS``."""
    share = torch.tensor([0.88, 0.06, 0.06], device=rng.device)
    choice = torch.multinomial(share, len(images), replacement=True, generator=rng)
    matrices = torch.stack([_blur_matrix(deviation) for deviation in BLURS]).to(rng.device)[choice]
    return matrices @ images @ matrices.transpose(1, 2), choice


def _on_background(images: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Put stripes (8 %) or a shade that grows to one side (8 %) behind the ink; also returns 0, 1 or 2 ``[batch]``."""
    uniform = partial(_uniform, rng, len(images))
    share = torch.tensor([0.84, 0.08, 0.08], device=rng.device)
    choice = torch.multinomial(share, len(images), replacement=True, generator=rng)
    direction, strength = uniform(0, 2 * math.pi), uniform(0.25, 0.5)
    cycles, phase = uniform(2, 5), uniform(0, 2 * math.pi)
    line = torch.linspace(-0.5, 0.5, SIZE, device=rng.device)
    along = direction.cos()[:, None, None] * line + direction.sin()[:, None, None] * line[:, None]
    stripes = 0.5 + 0.5 * torch.sin(2 * math.pi * cycles[:, None, None] * along + phase[:, None, None])
    patterns = torch.stack([torch.zeros_like(along), stripes, (along + 0.5).clamp(0, 1)])
    pattern = patterns[choice, torch.arange(len(images), device=rng.device)]
    return torch.maximum(images, strength[:, None, None] * pattern), choice


def _colour(images: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Colour some grey images ``[batch, 32, 32]``: ``[batch, 3, 32, 32]``, and indices into ``COLOURS``."""
    share = torch.full((len(COLOURS),), COLOURED / (len(COLOURS) - 1), device=rng.device)
    share[-1] = 1 - COLOURED
    choice = torch.multinomial(share, len(images), replacement=True, generator=rng)
    tint = torch.tensor(list(COLOURS.values()), device=rng.device)[choice]
    return images[:, None] * tint[:, :, None, None], choice


@cache
def _blur_matrix(deviation: float) -> Tensor:
    """Return ``[32, 32]``: the Gaussian mean along one axis, 0 for none; borders repeat their last pixel."""
    if deviation == 0:
        return torch.eye(SIZE)
    reach = math.ceil(3 * deviation)
    offsets = torch.arange(-reach, reach + 1)
    weights = torch.exp(-0.5 * (offsets / deviation) ** 2)
    source = (torch.arange(SIZE)[:, None] + offsets).clamp(0, SIZE - 1)
    return torch.zeros(SIZE, SIZE).scatter_add_(1, source, (weights / weights.sum()).expand(SIZE, -1))


@cache
def _area_matrix(size: int) -> Tensor:
    """Return ``[size, 32]``: the mean over equal stretches of pixels (PIL's box filter)."""
    return _resize_matrix(SIZE, size, Image.Resampling.BOX)


@cache
def _bicubic_matrix(size: int) -> Tensor:
    """Return ``[32, size]``: bicubic enlargement with PIL's kernel and borders."""
    return _resize_matrix(size, SIZE, Image.Resampling.BICUBIC)


def _resize_matrix(source: int, target: int, method: Image.Resampling) -> Tensor:
    """Return PIL's resampling along one axis as a matrix ``[target, source]``: resize the identity in float."""
    identity = Image.fromarray(np.eye(source, dtype=np.float32))
    resized = identity.resize((source, target), method)
    return torch.from_numpy(np.array(resized, dtype=np.float32))
