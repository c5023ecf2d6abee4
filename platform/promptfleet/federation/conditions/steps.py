"""An upload as a step away from what was downloaded: what privacy clips, and what an attack turns round.

Only real numbers make a step: counts and masks are no point that one could move a little.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from promptfleet.methods.protocol import State


def step_of(upload: State, download: State) -> dict[str, Tensor]:
    """Upload minus download by name, in float64; all of a tensor where none of its name was downloaded."""
    return {
        name: upload[name].double() - download[name].double() if name in download else upload[name].double()
        for name in sorted(upload)
        if upload[name].is_floating_point()
    }


def step_norm(step: Mapping[str, Tensor]) -> float:
    """Euclidean, over all tensors together."""
    return float(torch.cat([tensor.flatten() for tensor in step.values()]).norm())


def after_step(upload: State, download: State, step: Mapping[str, Tensor]) -> State:
    """The upload that is ``step`` away from the download, in float32; tensors without a step are as in ``upload``."""
    moved = {
        name: (download[name].double() + tensor if name in download else tensor).float()
        for name, tensor in step.items()
    }
    return {name: moved.get(name, tensor) for name, tensor in upload.items()}
