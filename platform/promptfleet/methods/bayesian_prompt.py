"""Bayesian prompt learning: a prompt with a Gaussian residual, and predictions averaged over samples of it.

Source: Derakhshani, Sanchez, Bulat, Turrisi da Costa, Snoek, Tzimiropoulos, Martinez: "Bayesian Prompt Learning for
Image-Language Model Generalization", ICCV 2023 (arXiv:2210.02390), and its published code. With xi_j ~ N(0, I) and
j = 1..L:
    P_j = ctx + r_j, the same r_j = p (mu + e^(logvar / 2) xi_j) for every token;
    loss = -mean_batch log(1/L sum_j p(y | x, P_j)) + gamma KL, and KL is the mean over coordinates of
    1/2 (e^logvar + mu^2 - 1 - logvar); a prediction is the mean of the probabilities p(c | x, P_j).
Unconditional: mu and logvar are trained, and the images of a batch share their samples. Conditional: networks give both
for the features of an image, which has its own samples.
Federated (ours): the server averages ctx and the posterior, or ctx alone.
Differs: ``prior_std`` p scales prior and start alike, as the published 1 drowns the prompt in noise; a step takes a
batch, while the code takes one image; the context starts as in CoOp, not from words. All images are predicted with the
same xi_j, so that a prediction depends on its image alone.
"""

from collections.abc import Callable
from math import prod
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from promptfleet.config import FederationConfig
from promptfleet.methods.parts.gaussian_residual import (
    init_residual,
    kl_to_prior,
    log_variance_of_mixture,
    residual_of_images,
    residual_shapes,
    sampled_contexts,
)
from promptfleet.methods.parts.prompts import context_shape, encode_contexts, init_context, local_batches
from promptfleet.methods.parts.prompts_of_images import noise_of, noise_of_parts, together
from promptfleet.methods.parts.sampled_prompts import SAMPLES, SampledPrompts
from promptfleet.methods.parts.training import detached, leaves, loss_metrics
from promptfleet.methods.protocol import (
    Arrived,
    Backward,
    Call,
    Encode,
    Images,
    Message,
    Spec,
    State,
    Task,
    Update,
    Work,
    World,
)


class BayesianPromptConfig(FederationConfig):
    """Configuration of Bayesian prompt learning."""

    prompt_lr: float = Field(
        0.003, gt=0, description="learning rate of the prompt and its posterior (published: 0.002)"
    )
    conditional: bool = Field(
        False, description="networks give the residual's mean and variance for each image; otherwise they are trained"
    )
    train_samples: int = Field(
        default_factory=lambda values: 1 if values["conditional"] else 10,
        ge=1,
        description="L, prompts sampled in a step; default: 10 (published) or, for each image if conditional, 1",
    )
    test_samples: int = Field(
        default_factory=lambda values: 3 if values["conditional"] else 10,
        ge=1,
        description="L, prompts sampled for predictions; default: 10 (published) or, for each image if conditional, 3",
    )
    kl_weight: float = Field(0.001, ge=0, description="gamma, weight of the KL divergence (published: 0.001)")
    prior_std: float = Field(
        0.02, ge=0, description="p, standard deviation of the prior of the residual (published: 1); 0: no residual"
    )
    posterior: Literal["shared", "private"] = Field(
        "shared",
        description="mean and variance of the residual, or their networks: averaged by the server, or kept by clients",
    )
    variance_average: Literal["geometric", "moment"] = Field(
        "geometric",
        description="average of variances: the mean of log-variances, or that of the mixture of the clients' residuals",
    )

    @model_validator(mode="after")
    def _check(self) -> "BayesianPromptConfig":
        if self.conditional and self.variance_average == "moment":
            raise ValueError("variance_average=moment needs conditional=false: networks have no mixture of variances")
        return self


class BayesianPrompt(SampledPrompts):
    """One averaged context, and a Gaussian residual in units of ``prior_std``.

    Server state, down and up: ``context`` [tokens, width] and the posterior: ``mean`` and ``log_variance`` [1, width]
    or, if conditional, the networks ``mean.*`` and ``log_variance.*``. A private posterior is each client's private
    state instead.
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
        config, noise, losses = task.config, noise_of_parts(task), []
        parameters = leaves({"context": task.download.tensors["context"], **_posterior(task)})
        optimizer = self.optimizer(task, parameters, config.prompt_lr)
        for batch in local_batches(task):
            of_parts = []
            for chosen in together(task, len(batch), config.train_samples):
                part = batch[chosen]
                gaussian = self._gaussian(task, parameters, part.images)
                contexts = sampled_contexts(parameters["context"], gaussian, config.prior_std, next(noise))
                text = (yield Encode(contexts.flatten(0, 1))).unflatten(0, contexts.shape[:2])
                of_data = F.nll_loss(self.log_mean(task, part.images, text.squeeze(1)), part.labels)
                loss = len(part) / len(batch) * (of_data + config.kl_weight * kl_to_prior(gaussian))
                yield Backward(loss)
                of_parts.append(loss.detach())
            optimizer.step()
            losses.append(torch.stack(of_parts).sum())
        trained = detached(parameters)
        upload = {name: trained.pop(name) for name in _shared(task.world)}
        return Update({**task.private, **trained}, Message(upload), loss_metrics(losses))

    def uploads(self, world: World) -> dict[str, Spec]:
        return {name: Spec(shape) for name, shape in _shared(world).items()}

    def trained_parameters(self, world: World) -> int:
        return prod(context_shape(world)) + sum(prod(shape) for shape in _shapes(world).values())

    def aggregate(self, server: State, arrived: Arrived) -> State:
        mean = arrived.mean()
        if arrived.world.config.variance_average == "moment" and not _is_private(arrived.world):
            mean["log_variance"] = log_variance_of_mixture(arrived, mean["mean"])
        return mean

    def contexts_to_predict(self, task: Task) -> Tensor:
        config, context = task.config, task.download.tensors["context"]
        noise = noise_of(task, config.test_samples, 1)
        return sampled_contexts(context, _posterior(task), config.prior_std, noise).squeeze(1)

    def with_samples(self, task: Task) -> Work[State]:
        """Return the private state, with samples unless each image has its own."""
        return task.private if task.config.conditional else (yield from super().with_samples(task))

    def predictor(self, task: Task) -> Callable[[Images], Tensor]:
        """Sample the prompts once for all images or, if conditional, those of each image with the same noise."""
        if not task.config.conditional:
            return super().predictor(task)
        config, context, posterior = task.config, task.download.tensors["context"], _posterior(task)
        noise = noise_of(task, config.test_samples, 1)

        @torch.no_grad()
        def predict(images: Images) -> Tensor:
            logits = []
            for chosen in together(task, len(images), config.test_samples):
                some = images[chosen]
                contexts = sampled_contexts(context, self._gaussian(task, posterior, some), config.prior_std, noise)
                text = encode_contexts(task.world, contexts.flatten(0, 1)).unflatten(0, contexts.shape[:2])
                logits.append(self.log_mean(task, some, text.squeeze(1)))
            return torch.cat(logits)

        return predict

    def server_model(self, task: Task) -> State:
        """Return the prior where posteriors are private: the server has no other."""
        if not _is_private(task.world):
            return task.private
        kept = {name: tensor for name, tensor in task.private.items() if name != SAMPLES}
        return {**kept, **{name: torch.zeros_like(kept[name]) for name in _shapes(task.world)}}

    def _gaussian(self, task: Task, posterior: State, images: Images) -> State:
        """Return mean and log-variance ``[1, width]`` or, if conditional, ``[images, width]``."""
        return residual_of_images(posterior, self.features(task, images)) if task.config.conditional else posterior


def _is_private(world: World) -> bool:
    return world.config.posterior == "private"


def _shapes(world: World) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of the posterior."""
    return residual_shapes(world, conditional=world.config.conditional)


def _start(world: World, rng: np.random.Generator) -> State:
    return init_residual(world, rng, conditional=world.config.conditional)


def _shared(world: World) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor that is uploaded."""
    return {"context": context_shape(world), **({} if _is_private(world) else _shapes(world))}


def _posterior(task: Task) -> State:
    source = task.private if _is_private(task.world) else task.download.tensors
    return {name: source[name] for name in _shapes(task.world)}
