"""Bayesian prompt learning: a prompt with a Gaussian residual, and predictions averaged over samples of it.

Source: Derakhshani, Sanchez, Bulat, Turrisi da Costa, Snoek, Tzimiropoulos, Martinez: "Bayesian Prompt Learning for
Image-Language Model Generalization", ICCV 2023 (arXiv:2210.02390), the unconditional posterior, and its published code.
With xi_j ~ N(0, I) and j = 1..L:
    P_j = ctx + r_j, the same r_j = p (mu + e^(logvar / 2) xi_j) for every token;
    loss = -mean_batch log(1/L sum_j p(y | x, P_j)) + gamma KL, and KL is the mean over coordinates of
    1/2 (e^logvar + mu^2 - 1 - logvar); a prediction is the mean of the probabilities p(c | x, P_j).
Federated (ours): the server averages ctx, mu and logvar; or mu and logvar stay with the client.
Differs: ``prior_std`` p scales prior and start alike, as the published 1 drowns the prompt in noise; batches of images
share their samples, while the code takes one image per step; the context starts as in CoOp, not from words.
"""

from collections.abc import Iterator
from math import ceil, exp, prod
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from promptfleet.config import FederationConfig
from promptfleet.methods.parts.gaussian_residual import (
    LOWEST,
    init_residual,
    kl_to_prior,
    residual_shapes,
    sampled_contexts,
)
from promptfleet.methods.parts.prompts import context_shape, init_context
from promptfleet.methods.parts.sampled_prompts import SampledPrompts, standard_normal
from promptfleet.methods.parts.training import detached, leaves, train_steps
from promptfleet.methods.protocol import Arrived, Call, Message, Spec, State, Task, Update, Work, World


class BayesianPromptConfig(FederationConfig):
    """Configuration of Bayesian prompt learning."""

    prompt_lr: float = Field(
        0.003, gt=0, description="learning rate of the prompt and its posterior (published: 0.002)"
    )
    train_samples: int = Field(10, ge=1, description="L, prompts sampled in each step (published: 10)")
    test_samples: int = Field(10, ge=1, description="L, prompts sampled for predictions (published: 10)")
    kl_weight: float = Field(0.001, ge=0, description="gamma, weight of the KL divergence (published: 0.001)")
    prior_std: float = Field(
        0.02, ge=0, description="p, standard deviation of the prior of the residual (published: 1); 0: no residual"
    )
    posterior: Literal["shared", "private"] = Field(
        "shared", description="mean and variance of the residual: averaged by the server, or kept by each client"
    )
    variance_average: Literal["geometric", "moment"] = Field(
        "geometric",
        description="average of variances: the mean of log-variances, or that of the mixture of the clients' residuals",
    )


class BayesianPrompt(SampledPrompts):
    """One averaged context, and a Gaussian residual in units of ``prior_std``.

    Server state, down and up: ``context`` [tokens, width], ``mean`` and ``log_variance`` [1, width]. With a private
    posterior the latter two are each client's private state instead.
    """

    Config = BayesianPromptConfig

    def init_server(self, world: World, rng: np.random.Generator) -> State:
        context = {"context": init_context(world, rng)}
        return {**context, **({} if _is_private(world) else init_residual(world, rng))}

    def init_client(self, world: World, client: int, rng: np.random.Generator) -> State:
        return init_residual(world, rng) if _is_private(world) else {}

    def select(self, server: State, call: Call) -> dict[int, Message]:
        return call.to_all(Message(dict(server)))

    def local_update(self, task: Task) -> Work[Update]:
        config, noise = task.config, _noise_of_steps(task)
        parameters = leaves({"context": task.download.tensors["context"], **_posterior(task)})
        metrics = yield from train_steps(
            task,
            optimizers=[self.optimizer(task, parameters, config.prompt_lr)],
            contexts=lambda: sampled_contexts(parameters["context"], parameters, config.prior_std, next(noise)),
            loss=lambda text, batch: (
                F.nll_loss(self.log_mean(task, batch.images, text), batch.labels)
                + config.kl_weight * kl_to_prior(parameters)
            ),
        )
        trained = detached(parameters)
        upload = {name: trained.pop(name) for name in _shared(task.world)}
        return Update({**task.private, **trained}, Message(upload), metrics)

    def uploads(self, world: World) -> dict[str, Spec]:
        return {name: Spec(shape) for name, shape in _shared(world).items()}

    def trained_parameters(self, world: World) -> int:
        return prod(context_shape(world)) + sum(prod(shape) for shape in residual_shapes(world).values())

    def aggregate(self, server: State, arrived: Arrived) -> State:
        mean = arrived.mean()
        if arrived.world.config.variance_average == "moment" and not _is_private(arrived.world):
            mean["log_variance"] = _log_variance_of_mixture(arrived, mean["mean"])
        return mean

    def contexts_to_predict(self, task: Task) -> Tensor:
        (noise,) = _noise(task, 1, task.config.test_samples)
        return sampled_contexts(task.download.tensors["context"], _posterior(task), task.config.prior_std, noise)

    def server_model(self, task: Task) -> State:
        """Return the prior where posteriors are private: the server has no other."""
        if not _is_private(task.world):
            return task.private
        return {**task.private, **{name: torch.zeros_like(task.private[name]) for name in residual_shapes(task.world)}}


def _is_private(world: World) -> bool:
    return world.config.posterior == "private"


def _shared(world: World) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor that is uploaded."""
    return {"context": context_shape(world), **({} if _is_private(world) else residual_shapes(world))}


def _posterior(task: Task) -> State:
    source = task.private if _is_private(task.world) else task.download.tensors
    return {name: source[name] for name in residual_shapes(task.world)}


def _noise(task: Task, steps: int, samples: int) -> Tensor:
    """Draw standard normal noise ``[steps, samples, (1,) 1, width]``."""
    *before, width = context_shape(task.world)
    return standard_normal(task, (steps, samples, *(1 for _ in before), width))


def _noise_of_steps(task: Task) -> Iterator[Tensor]:
    """Yield the noise of each step; all of it is drawn at the first, so after the order of the examples."""
    steps = task.config.local_epochs * ceil(len(task.train) / task.config.batch_size)
    yield from _noise(task, steps, task.config.train_samples)


def _log_variance_of_mixture(arrived: Arrived, mean: Tensor) -> Tensor:
    """Return the log-variance of the mixture of all residuals: how far clients disagree counts as variance."""
    squares = arrived.of_each(lambda sent: {"square": sent["log_variance"].exp() + sent["mean"].square()})
    variance = squares.mean()["square"] - mean.square()
    return variance.clamp(min=exp(LOWEST)).log()
