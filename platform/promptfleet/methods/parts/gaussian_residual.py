"""Gaussian residual of a prompt, in units of the standard deviation p of its prior.

A residual p (mu + e^(logvar / 2) xi), with xi ~ N(0, I), is added to each token of a context.
"""

import numpy as np
import torch
from torch import Tensor

from promptfleet.methods.protocol import State, World

GAUSSIAN = ("mean", "log_variance")
LOWEST, HIGHEST = -12.0, 2.0  # of a log-variance that samples are drawn with


def residual_shapes(world: World) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of the posterior."""
    return dict.fromkeys(GAUSSIAN, (1, world.clip.tower.width))


def init_residual(world: World, rng: np.random.Generator) -> State:
    """Return a posterior of mean 0 whose log-variances are uniform in [0, 1), as in the published code."""
    drawn = torch.from_numpy(rng.random((1, world.clip.tower.width)).astype(np.float32))
    return {"mean": torch.zeros_like(drawn), "log_variance": drawn}


def sampled_contexts(context: Tensor, gaussian: State, prior_std: float, noise: Tensor) -> Tensor:
    """Return ``[samples, (classes,) tokens, width]``; ``noise [samples, (1,) 1, width]`` is standard normal."""
    std = (gaussian["log_variance"].clamp(LOWEST, HIGHEST) / 2).exp()
    return context + prior_std * (gaussian["mean"] + std * noise)


def kl_to_prior(gaussian: State) -> Tensor:
    """Return KL(N(mean, e^log_variance) || N(0, 1)), the mean over coordinates."""
    mean, log_variance = (gaussian[name] for name in GAUSSIAN)
    return (log_variance.exp() + mean.square() - 1 - log_variance).mean() / 2
