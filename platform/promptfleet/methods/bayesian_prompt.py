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
from dataclasses import replace
from math import ceil, exp, prod
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from promptfleet.config import FederationConfig
from promptfleet.methods.parts.prompts import context_shape, init_context
from promptfleet.methods.parts.sampled_prompts import SampledPrompts, standard_normal
from promptfleet.methods.parts.training import detached, leaves, train_steps
from promptfleet.methods.protocol import Arrived, Call, Message, Spec, State, Task, Update, Work, World

_POSTERIOR = ("mean", "log_variance")
_LOWEST, _HIGHEST = -12.0, 2.0  # of a log-variance that samples are drawn with


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
        return {**context, **({} if _is_private(world) else _start(world, rng))}

    def init_client(self, world: World, client: int, rng: np.random.Generator) -> State:
        return _start(world, rng) if _is_private(world) else {}

    def select(self, server: State, call: Call) -> dict[int, Message]:
        return call.to_all(Message(dict(server)))

    def local_update(self, task: Task) -> Work[Update]:
        config, noise = task.config, _noise_of_steps(task)
        parameters = leaves({"context": task.download.tensors["context"], **_posterior(task)})
        metrics = yield from train_steps(
            task,
            optimizers=[self.optimizer(task, parameters, config.prompt_lr)],
            contexts=lambda: sampled_contexts(parameters, config.prior_std, next(noise)),
            loss=lambda text, batch: (
                F.nll_loss(self.log_mean(task, batch.images, text), batch.labels)
                + config.kl_weight * kl_to_prior(parameters["mean"], parameters["log_variance"])
            ),
        )
        trained = detached(parameters)
        upload = {name: trained.pop(name) for name in ("context", *_shared(task.world))}
        return Update({**task.private, **trained}, Message(upload), metrics)

    def uploads(self, world: World) -> dict[str, Spec]:
        residual = {name: Spec((1, world.clip.tower.width)) for name in _shared(world)}
        return {"context": Spec(context_shape(world)), **residual}

    def trained_parameters(self, world: World) -> int:
        return prod(context_shape(world)) + 2 * world.clip.tower.width

    def aggregate(self, server: State, arrived: Arrived) -> State:
        mean = arrived.mean()
        if arrived.world.config.variance_average == "moment" and not _is_private(arrived.world):
            mean["log_variance"] = _log_variance_of_mixture(arrived, mean["mean"])
        return mean

    def contexts_to_predict(self, task: Task) -> Tensor:
        given = {"context": task.download.tensors["context"], **_posterior(task)}
        return sampled_contexts(given, task.config.prior_std, _noise(task, 1, task.config.test_samples)[0])

    def server_model(self, task: Task) -> State:
        """Return the prior where posteriors are private: the server has no other."""
        private = {name: torch.zeros_like(task.private[name]) for name in _POSTERIOR} if _is_private(task.world) else {}
        return {**task.private, **private}


def sampled_contexts(state: State, prior_std: float, noise: Tensor) -> Tensor:
    """Return ``[samples, (classes,) tokens, width]``; ``noise [samples, (1,) 1, width]`` is standard normal."""
    std = (state["log_variance"].clamp(_LOWEST, _HIGHEST) / 2).exp()
    return state["context"] + prior_std * (state["mean"] + std * noise)


def kl_to_prior(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(N(mean, e^log_variance) || N(0, 1)), the mean over coordinates."""
    return (log_variance.exp() + mean.square() - 1 - log_variance).mean() / 2


def _start(world: World, rng: np.random.Generator) -> State:
    """Return a posterior of mean 0 whose log-variances are uniform in [0, 1), as in the published code."""
    drawn = torch.from_numpy(rng.random((1, world.clip.tower.width)).astype(np.float32))
    return {"mean": torch.zeros_like(drawn), "log_variance": drawn}


def _is_private(world: World) -> bool:
    return world.config.posterior == "private"


def _shared(world: World) -> tuple[str, ...]:
    """Return the names of the posterior's tensors that are uploaded."""
    return () if _is_private(world) else _POSTERIOR


def _posterior(task: Task) -> State:
    source = task.private if _is_private(task.world) else task.download.tensors
    return {name: source[name] for name in _POSTERIOR}


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
    squares = {
        client: Message({"square": upload.tensors["log_variance"].exp() + upload.tensors["mean"].square()})
        for client, upload in arrived.uploads.items()
    }
    variance = replace(arrived, uploads=squares).mean()["square"] - mean.square()
    return variance.clamp(min=exp(_LOWEST)).log()
