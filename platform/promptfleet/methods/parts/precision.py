"""A tower's arithmetic in the configured precision; what goes in and what comes out is float32."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from promptfleet.clip.transformer import TransformerT
from promptfleet.config import FederationConfig

FLOAT16_SCALE = 2.0**10  # of gradients within a tower: many are too small for float16 even if the loss is not


def in_precision(
    config: FederationConfig,
    tower: TransformerT,
    inputs: Sequence[Tensor],
    encode: Callable[[TransformerT, Sequence[Tensor]], Tensor],
) -> Tensor:
    """Return ``encode(tower, inputs)``, computed in ``config.precision``."""
    if config.precision in ("float32", "tf32"):  # for the latter see ``devices.set_arithmetic``
        return encode(tower, inputs)
    dtype = getattr(torch, config.precision)
    scaled = dtype == torch.float16 and any(one.requires_grad for one in inputs)
    if scaled:
        inputs = [_unscaled(one) if one.requires_grad else one for one in inputs]
    with torch.autocast(inputs[0].device.type, dtype):
        features = encode(tower.lowered(dtype), inputs)
    if scaled:
        features.register_hook(lambda gradient: gradient * FLOAT16_SCALE)
    return features


def _unscaled(tensor: Tensor) -> Tensor:
    """Return a copy whose gradients arrive without the scale."""
    copy = tensor.clone()
    copy.register_hook(lambda gradient: gradient / FLOAT16_SCALE)
    return copy
