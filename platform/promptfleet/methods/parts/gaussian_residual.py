"""Gaussian residual of a prompt, in units of the standard deviation p of its prior.

A residual p (mu + e^(logvar / 2) xi), with xi ~ N(0, I), is added to each token of a context. Unconditional: mu and
logvar are trained numbers. Conditional: two networks, linear, ELU, linear, ELU, linear, give mu(f) and logvar(f) for
the feature f of each image.
"""

from itertools import pairwise
from math import exp, sqrt

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from promptfleet.methods.protocol import Arrived, State, World

GAUSSIAN = ("mean", "log_variance")
LOWEST, HIGHEST = -12.0, 2.0  # of a log-variance that samples are drawn with


def residual_shapes(world: World, *, conditional: bool) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of the posterior."""
    width, dim = world.clip.tower.width, world.clip.tower.dim
    if not conditional:
        return dict.fromkeys(GAUSSIAN, (1, width))
    sizes = (dim, dim // 2, dim // 2, width)
    shapes = {}
    for network in GAUSSIAN:
        for layer, (inputs, outputs) in enumerate(pairwise(sizes), start=1):
            shapes |= {f"{network}.weight{layer}": (outputs, inputs), f"{network}.bias{layer}": (outputs,)}
    return shapes


def init_residual(world: World, rng: np.random.Generator, *, conditional: bool) -> State:
    """Return a posterior of mean 0 and log-variances in [0, 1), or networks that start as ``torch.nn.Linear`` does.

    All draws are uniform, as in the published code.
    """
    if not conditional:
        drawn = torch.from_numpy(rng.random((1, world.clip.tower.width)).astype(np.float32))
        return {"mean": torch.zeros_like(drawn), "log_variance": drawn}
    shapes, start = residual_shapes(world, conditional=True), {}
    for name, shape in shapes.items():
        inputs = shapes[name.replace("bias", "weight")][1]
        start[name] = torch.from_numpy(rng.uniform(-1, 1, shape).astype(np.float32)) / sqrt(inputs)
    return start


def residual_of_images(posterior: State, features: Tensor) -> State:
    """Return the conditional posterior's mean and log-variance ``[images, width]`` for ``features [images, dim]``."""
    return {name: _network(posterior, name, features) for name in GAUSSIAN}


def _network(posterior: State, name: str, features: Tensor) -> Tensor:
    hidden = features
    for layer in (1, 2, 3):
        hidden = F.linear(hidden, posterior[f"{name}.weight{layer}"], posterior[f"{name}.bias{layer}"])
        hidden = F.elu(hidden) if layer < 3 else hidden
    return hidden


def sampled_contexts(context: Tensor, gaussian: State, prior_std: float, noise: Tensor) -> Tensor:
    """Return ``[samples, 1 or images, (classes,) tokens, width]``, with the same residual for all classes and tokens.

    ``gaussian`` has a mean and a log-variance ``[1 or images, width]``, and ``noise [samples, 1 or images, width]`` is
    standard normal.
    """
    std = (gaussian["log_variance"].clamp(LOWEST, HIGHEST) / 2).exp()
    residual = prior_std * (gaussian["mean"] + std * noise)
    return context + residual.view(*residual.shape[:2], *(1 for _ in context.shape[:-1]), -1)


def kl_to_prior(gaussian: State) -> Tensor:
    """Return KL(N(mean, e^log_variance) || N(0, 1)), the mean over coordinates and images."""
    mean, log_variance = (gaussian[name] for name in GAUSSIAN)
    return (log_variance.exp() + mean.square() - 1 - log_variance).mean() / 2


def log_variance_of_mixture(arrived: Arrived, mean: Tensor) -> Tensor:
    """Return the log-variance of the mixture of all residuals: how far clients disagree counts as variance."""
    squares = arrived.of_each(lambda sent: {"square": sent["log_variance"].exp() + sent["mean"].square()})
    variance = squares.mean()["square"] - mean.square()
    return variance.clamp(min=exp(LOWEST)).log()
