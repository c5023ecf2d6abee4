"""The plainer gate of pFedMoAP's ablation: a linear map from the image feature to one weight per expert.

Source: Luo, Chen, Wu, ICLR 2025 (arXiv:2410.10114), Table 7, "linear projection". Its exact form is unverified; this is
the usual gate of a mixture of experts. Output 0 is the client's own expert, output e whoever is e-th in a round's
selection: experts have no identity, which the attention gate, looking at the experts themselves, does not need.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from promptfleet.methods.protocol import State


def init_linear_gate(width: int, experts: int, rng: np.random.Generator) -> State:
    """``weight [experts, width]`` and ``bias [experts]``, uniform in +-1/sqrt(width) as ``torch.nn.Linear`` starts."""
    bound = width**-0.5
    shapes = {"weight": (experts, width), "bias": (experts,)}
    return {
        name: torch.from_numpy(rng.uniform(-bound, bound, shape).astype(np.float32)) for name, shape in shapes.items()
    }


def linear_gate_weights(gate: State, image: Tensor, experts: int) -> Tensor:
    """``[batch, experts]``, summing to one, from reduced images ``[batch, width]``; spare outputs are unused."""
    return torch.softmax(F.linear(image, gate["weight"][:experts], gate["bias"][:experts]), dim=-1)


def linear_gate_scores(weights: Tensor, features: Tensor, experts: Tensor) -> Tensor:
    """Dot products ``[batch, classes]`` of image features ``[batch, dim]`` and the mixture of ``experts``.

    weights ``[batch, experts]``, experts ``[experts, classes, dim]``: at their full width, as nothing maps them.
    """
    return torch.einsum("be,bd,ecd->bc", weights, features, experts)
