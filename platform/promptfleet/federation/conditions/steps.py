"""Uploads as steps away from the download: privacy clips a step, an attack reverses it.

Only real numbers make a step: counts and masks cannot be moved a little.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from promptfleet.methods.protocol import State


def step_of(upload: State, download: State) -> dict[str, Tensor]:
    """Return upload minus download by name, in float64; a tensor without a download is its own step."""
    return {
        name: upload[name].double() - download[name].double() if name in download else upload[name].double()
        for name in sorted(upload)
        if upload[name].is_floating_point()
    }


def step_norm(step: Mapping[str, Tensor]) -> float:
    """Return the Euclidean norm over all tensors together."""
    return float(torch.cat([tensor.flatten() for tensor in step.values()]).norm())


def after_step(upload: State, download: State, step: Mapping[str, Tensor]) -> State:
    """Return the upload that is ``step`` away from the download, in float32; other tensors are as in ``upload``."""
    moved = {
        name: (download[name].double() + tensor if name in download else tensor).float()
        for name, tensor in step.items()
    }
    return {name: moved.get(name, tensor) for name, tensor in upload.items()}
