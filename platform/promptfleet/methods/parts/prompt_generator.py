"""Generator of FedTPG: text features of some classes become one context for all of them.

Source: Qiu et al., "Federated Text-driven Prompt Generation for Vision-Language Models", ICLR 2024 (arXiv:2310.06123).
Learned queries Q attend to the classes' text features E; LN is layer normalization, the feed-forward network is gated:

    h = attention(LN(Q), LN(E)),   context = h + W_2 (a * gelu(b)) + b_2   with   [a, b] = W_1 LN(h) + b_1
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from promptfleet.methods.parts.prompts import CONTEXT_STD
from promptfleet.methods.protocol import State

HEADS = 4
_EXPANSION = 4  # width of the feed-forward network's hidden layer, in widths of a token


def generator_shapes(tokens: int, width: int, dim: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a generator: contexts ``[tokens, width]`` from features ``dim`` wide."""
    hidden = _EXPANSION * width
    linear = {
        "query": (width, width),
        "key": (width, dim),
        "value": (width, dim),
        "output": (width, width),
        "expand": (2 * hidden, width),
        "contract": (width, hidden),
    }
    norms = {"query_norm": width, "class_norm": dim, "feed_forward_norm": width}
    shapes: dict[str, tuple[int, ...]] = {"queries": (tokens, width)}
    for name, shape in linear.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name, size in norms.items():
        shapes |= {f"{name}.weight": (size,), f"{name}.bias": (size,)}
    return shapes


def init_generator(tokens: int, width: int, dim: int, rng: np.random.Generator) -> State:
    """Draw queries with the deviation of a context and weights uniform within 1/sqrt(inputs); norms start as identity.

    Differs: all biases start at zero. The published code draws query, key and value by Xavier's rule and the biases of
    the feed-forward network as ``torch.nn.Linear`` does.
    """

    def initial(name: str, shape: tuple[int, ...]) -> np.ndarray:
        layer, _, kind = name.partition(".")
        if layer == "queries":
            return rng.normal(0.0, CONTEXT_STD, shape)
        if layer.endswith("_norm"):
            return np.full(shape, float(kind == "weight"))
        if kind == "bias":
            return np.zeros(shape)
        bound = shape[1] ** -0.5
        return rng.uniform(-bound, bound, shape)

    shapes = generator_shapes(tokens, width, dim)
    return {name: torch.from_numpy(initial(name, shape).astype(np.float32)) for name, shape in shapes.items()}


def generate_context(generator: State, class_text: Tensor) -> Tensor:
    """Return the context ``[tokens, width]`` for classes with text features ``[classes, dim]``, in any order."""

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, generator[f"{name}.weight"], generator[f"{name}.bias"])

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], generator[f"{name}.weight"], generator[f"{name}.bias"])

    def heads(x: Tensor) -> Tensor:
        return x.unflatten(-1, (HEADS, -1)).transpose(0, 1)

    classes = norm("class_norm", class_text)
    queries = heads(linear("query", norm("query_norm", generator["queries"])))
    keys, values = heads(linear("key", classes)), heads(linear("value", classes))
    attention = torch.softmax(queries @ keys.transpose(1, 2) * queries.shape[-1] ** -0.5, dim=-1)
    hidden = linear("output", (attention @ values).transpose(0, 1).flatten(1))
    inner, gate = linear("expand", norm("feed_forward_norm", hidden)).chunk(2, dim=-1)
    return hidden + linear("contract", inner * F.gelu(gate))
