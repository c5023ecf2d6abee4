"""Gaussians over the numbers of a prompt, with variances in units of the square of ``prior_std``."""

from torch import Tensor

from promptfleet.methods.protocol import State

GAUSSIAN = ("mean", "log_variance")
_LARGEST = 6.0  # size of a log-variance, so that deviations are within a factor of 20 of ``prior_std``


def sampled_contexts(gaussian: State, prior_std: float, noise: Tensor) -> Tensor:
    """Return ``[samples, (classes,) tokens, width]``; ``noise`` of that shape is standard normal."""
    return gaussian["mean"] + prior_std * (gaussian["log_variance"] / 2).exp() * noise


def kl_divergence(posterior: State, prior: State, prior_std: float) -> Tensor:
    """Return KL(q || p), the sum over the prompt's numbers, of Gaussians with variances in units of ``prior_std``^2."""
    apart = prior["log_variance"] - posterior["log_variance"]
    away = (posterior["mean"] - prior["mean"]) / prior_std
    return (apart + apart.neg().exp() + away.square() * prior["log_variance"].neg().exp() - 1).sum() / 2


def hyperprior(prior: State, prior_std: float, shape: float, rate: float) -> Tensor:
    """Return -log N(mean; 0, I) - log Gamma(precision; shape, rate), up to a constant: the sum over numbers."""
    precision = prior["log_variance"].neg().exp() / prior_std**2
    of_precision = rate * precision - (shape - 1) * precision.log()
    return (prior["mean"].square() / 2 + of_precision).sum()


def bounded(gaussian: State) -> State:
    """Return the Gaussian with limited log-variances."""
    return {**gaussian, "log_variance": gaussian["log_variance"].clamp(-_LARGEST, _LARGEST)}
