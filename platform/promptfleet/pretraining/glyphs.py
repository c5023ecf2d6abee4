"""Batched rendering of distance fields into training images: all in torch, about 0.1 ms per image.

field -> affine and elastic warp -> fit to the box -> stroke width -> area average to a low resolution -> contrast,
noise, 17 grey levels -> bicubic to 32 x 32 (the kernel PIL uses) -> perhaps inverted -> normalized.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from promptfleet.pretraining.bank import CANVAS, GlyphBank

SIZE = 32
STYLES = ("handwritten", "printed", "bold", "thin", "slanted", "inverted", "noisy")  # columns of Rendered.styles
RESOLUTIONS = ((8, 0.6), (10, 0.1), (12, 0.08), (16, 0.1), (32, 0.12))  # pixels, share of the images


@dataclass(frozen=True)
class Rendered:
    """Images ``[batch, 32, 32]`` float32 in 0..1, with ``label [batch]`` and ``styles [batch, len(STYLES)]`` bool."""

    images: torch.Tensor
    label: torch.Tensor
    styles: torch.Tensor


def render(bank: GlyphBank, index: torch.Tensor, rng: torch.Generator) -> Rendered:
    """Draw the glyphs ``index`` of the bank, each with its own random distortions; a function of ``rng`` alone."""
    batch = len(index)
    uniform = partial(_uniform, rng, batch)
    is_pen = bank.is_pen[index]
    radius = torch.where(is_pen, uniform(0.9, 3.6), uniform(-0.2, 1.8))
    shear = uniform(-0.45, 0.45)
    elastic = uniform(0.0, 0.13)
    field = _warp(bank.fields[index], shear, uniform(-0.26, 0.26), elastic, rng)
    field = _fit(field, radius, rng)
    ink = torch.sigmoid((radius[:, None, None] - field) / 0.35)
    noise = uniform(0, 1) ** 3 * 0.12
    images = _to_resolution(ink, noise, rng)
    inverted = uniform(0, 1) < 0.12
    images = torch.where(inverted[:, None, None], 1 - images, images)
    width = torch.where(is_pen, (radius - 0.9) / 2.7, 0.35 * bank.is_bold[index] + (radius + 0.2) / 3.1)
    by_hand = is_pen | (elastic > 0.065)  # strongly bent print counts as handwriting
    styles = torch.stack(
        [
            by_hand,
            ~by_hand,
            width > 0.65,
            width < 0.25,
            (shear.abs() > 0.25) | (bank.is_slanted[index] & (shear > -0.1)),  # unless the shear rights an italic
            inverted,
            noise > 0.04,
        ],
        dim=1,
    )
    return Rendered(images, bank.label[index], styles)


def normalize(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Turn ``[batch, 32, 32]`` in 0..1 into the model's input, ``[batch, 3, 32, 32]``."""
    channels = images[:, None].expand(-1, 3, -1, -1)
    return (channels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def _uniform(rng: torch.Generator, batch: int, low: float, high: float) -> torch.Tensor:
    return torch.empty(batch).uniform_(low, high, generator=rng)


def _warp(
    field: torch.Tensor, shear: torch.Tensor, angle: torch.Tensor, elastic: torch.Tensor, rng: torch.Generator
) -> torch.Tensor:
    """Rotate, shear and bend ``[batch, 48, 48]``; ``elastic`` is the displacement's size in half canvases."""
    batch = len(field)
    matrix = torch.zeros(batch, 2, 3)
    matrix[:, 0, 0], matrix[:, 0, 1] = angle.cos(), shear - angle.sin()
    matrix[:, 1, 0], matrix[:, 1, 1] = angle.sin(), angle.cos()
    grid = F.affine_grid(matrix, [batch, 1, CANVAS, CANVAS], align_corners=False)
    coarse = torch.randn(batch, 2, 5, 5, generator=rng) * elastic[:, None, None, None]
    bend = F.interpolate(coarse, size=CANVAS, mode="bicubic", align_corners=True)
    return _sample(field, grid + bend.permute(0, 2, 3, 1))


def _fit(field: torch.Tensor, radius: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Cut out the inked box and place it in 32 x 32: mostly filling the height, sometimes smaller and off centre."""
    batch = len(field)
    uniform = partial(_uniform, rng, batch)
    fills = uniform(0, 1) < 0.75
    height = torch.where(fills, uniform(0.9, 1.04), uniform(0.5, 0.95)) * SIZE
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
    zoom = torch.minimum(height / source_height, 1.6 * SIZE / CANVAS * torch.ones(batch))
    zoom_x = torch.minimum(zoom * stretch, SIZE * 1.02 / source_width)
    free_x, free_y = (SIZE - source_width * zoom_x).clamp(min=0), (SIZE - source_height * zoom).clamp(min=0)
    wander = torch.where(fills, 0.3, 0.8)
    centre_x, centre_y = SIZE / 2 + free_x * slack_x * wander, SIZE / 2 + free_y * slack_y * wander
    matrix = torch.zeros(batch, 2, 3)  # output in -1..1 of 32 pixels -> source in -1..1 of 48 pixels
    matrix[:, 0, 0], matrix[:, 1, 1] = SIZE / (zoom_x * CANVAS), SIZE / (zoom * CANVAS)
    matrix[:, 0, 2] = ((x0 + x1) / 2 + (SIZE / 2 - centre_x) / zoom_x) * 2 / CANVAS - 1
    matrix[:, 1, 2] = ((y0 + y1) / 2 + (SIZE / 2 - centre_y) / zoom) * 2 / CANVAS - 1
    grid = F.affine_grid(matrix, [batch, 1, SIZE, SIZE], align_corners=False)
    return _sample(field, grid)


def _sample(field: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    return F.grid_sample(field[:, None], grid, mode="bilinear", padding_mode="border", align_corners=False)[:, 0]


def _to_resolution(ink: torch.Tensor, noise: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Area-average to a random resolution, add contrast and noise there, quantize, and enlarge again."""
    batch = len(ink)
    gain = torch.empty(batch, 1, 1).uniform_(0.75, 1.3, generator=rng)
    gamma = torch.empty(batch, 1, 1).uniform_(0.7, 1.4, generator=rng)
    share = torch.tensor([part for _, part in RESOLUTIONS])
    choice = torch.multinomial(share, batch, replacement=True, generator=rng)
    images = torch.empty_like(ink)
    for number, (size, _) in enumerate(RESOLUTIONS):
        rows = (choice == number).nonzero()[:, 0]
        down, up = _area_matrix(size), _bicubic_matrix(size)
        small = ((down @ ink[rows] @ down.T).clamp(0, 1) ** gamma[rows] * gain[rows]).clamp(0, 1)
        small = small + torch.randn(small.shape, generator=rng) * noise[rows, None, None]
        small = (small.clamp(0, 1) * 16).round() / 16
        images[rows] = (up @ small @ up.T).clamp(0, 1)
    return images


@cache
def _area_matrix(size: int) -> torch.Tensor:
    """Return ``[size, 32]``: the mean over equal stretches of pixels (PIL's box filter)."""
    return _resize_matrix(SIZE, size, Image.Resampling.BOX)


@cache
def _bicubic_matrix(size: int) -> torch.Tensor:
    """Return ``[32, size]``: bicubic enlargement with PIL's kernel and borders."""
    return _resize_matrix(size, SIZE, Image.Resampling.BICUBIC)


def _resize_matrix(source: int, target: int, method: Image.Resampling) -> torch.Tensor:
    """Return PIL's resampling along one axis as a matrix ``[target, source]``: resize the identity in float."""
    identity = Image.fromarray(np.eye(source, dtype=np.float32))
    resized = identity.resize((source, target), method)
    return torch.from_numpy(np.array(resized, dtype=np.float32))
