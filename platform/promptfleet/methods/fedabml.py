"""FedABML: a Gaussian over prompts as global prior, from which each client takes a few steps to its posterior.

Source: Liu, Lv, Zeng, Xu, Wang, Yu: "Personalized Federated Learning via Amortized Bayesian Meta-Learning",
arXiv:2307.02222; the equations are those of Ravi, Beatson, "Amortized Bayesian Meta-Learning", ICLR 2019. The prior is
theta = (mu, rho), a posterior lambda = (m, r), both N(mean, p^2 e^log_variance) per number of the prompt.
    F_D(lambda) = mean over samples of cross-entropy(D) + beta/|D_i| KL(q_lambda || p_theta);
    adapt: K steps lambda <- lambda - a grad F_S(lambda), from lambda = theta, with plain SGD;
    then theta steps along grad of the cross-entropy of Q at lambda, taken for that at theta (first order) or with
    ``second_order`` its gradient through the steps, plus beta/|D_i| grad_theta KL(q_lambda || p_theta), and the
    hyper-prior -log N(mu; 0, I) - log Gamma(e^-rho / p^2).
S and Q are halves of a batch. The server averages mu and rho. A client adapts to all its training examples, and its
prediction is the mean of the probabilities of sampled prompts.
Differs: no published code was found; scales, steps and the split are ours. ``prior_std`` p is the unit of variances.
"""

from collections.abc import Iterator
from dataclasses import replace
from math import ceil
from typing import Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from promptfleet.config import FederationConfig
from promptfleet.errors import ConfigError
from promptfleet.methods.parts.gaussian_prompts import (
    GAUSSIAN,
    bounded,
    hyperprior,
    kl_divergence,
    sampled_contexts,
)
from promptfleet.methods.parts.inner_loop import descend, descend_differentiably
from promptfleet.methods.parts.prompts import context_shape, init_context, local_batches
from promptfleet.methods.parts.sampled_prompts import SAMPLES, SampledPrompts, standard_normal
from promptfleet.methods.parts.training import detached, leaves, loss_metrics
from promptfleet.methods.protocol import (
    Arrived,
    Backward,
    Call,
    Encode,
    Examples,
    Message,
    Spec,
    State,
    Task,
    Update,
    Work,
    World,
)


class FedABMLConfig(FederationConfig):
    """Configuration of FedABML; the values of the paper are not known."""

    prompt_lr: float = Field(0.003, gt=0, description="b, learning rate of the prior's mean")
    variance_lr: float = Field(
        default_factory=lambda values: values["prompt_lr"] / 10,
        ge=0,
        description="learning rate of the prior's log-variances; default: a tenth of prompt_lr",
    )
    adapt_steps: int = Field(2, ge=0, description="K, steps from the prior to the posterior in each local step")
    test_steps: int = Field(5, ge=0, description="K, such steps before each evaluation; 0: predict with the prior")
    adapt_lr: float = Field(0.01, gt=0, description="a, learning rate of the steps to the posterior")
    kl_weight: float = Field(0.01, ge=0, description="beta, weight of the KL divergence of a posterior from the prior")
    train_samples: int = Field(1, ge=1, description="prompts sampled in each step")
    test_samples: int = Field(10, ge=1, description="prompts sampled for predictions")
    prior_std: float = Field(
        0.02,
        ge=0,
        description="p, standard deviation of the prior at the start; 0: no noise, without KL and hyper-prior",
    )
    query: Literal["half", "all"] = Field(
        "half",
        description="examples of a batch that the prior learns from: those not adapted to, or all, as adaptation",
    )
    second_order: bool = Field(
        False, description="gradient of the prior through the steps of adaptation, instead of the one where they end"
    )
    hyperprior_weight: float = Field(0.0, ge=0, description="weight of the hyper-prior, per example of the client")
    precision_shape: float = Field(1.0, gt=0, description="a0, shape of the Gamma hyper-prior of the precisions")
    precision_rate: float = Field(0.01, ge=0, description="b0, rate of the Gamma hyper-prior of the precisions")
    variance_average: Literal["geometric", "precision"] = Field(
        "geometric", description="average of variances: the mean of log-variances, or of the precisions"
    )

    @model_validator(mode="after")
    def _check(self) -> "FedABMLConfig":
        if self.prior_std == 0 and (self.kl_weight or self.hyperprior_weight):
            raise ValueError("prior_std=0 needs kl_weight=0 and hyperprior_weight=0")
        return self


class FedABML(SampledPrompts):
    """Averaged Gaussian over prompts, adapted by each client.

    Server state, down and up: ``mean`` and ``log_variance`` [tokens, width], for each class where contexts are
    class-specific. Clients keep nothing; the posterior to predict with has the same names.
    """

    Config = FedABMLConfig
    context_names = ("mean",)

    def check(self, world: World) -> None:
        config = world.config
        step, most = config.adapt_lr * config.kl_weight, 2 * config.prior_std**2
        if step >= most > 0:  # of one example, the step of the KL to a prior of this variance overshoots
            raise ConfigError(
                f"method {config.method}: adapt_lr * kl_weight = {step:g} lets adaptation diverge, should be below "
                f"2 * prior_std^2 = {most:g}"
            )

    def init_server(self, world: World, rng: np.random.Generator) -> State:
        return {"mean": init_context(world, rng), "log_variance": torch.zeros(context_shape(world))}

    def select(self, server: State, call: Call) -> dict[int, Message]:
        return call.to_all(Message(dict(server)))

    def local_update(self, task: Task) -> Work[Update]:
        config, noise, losses = task.config, _noise_of_steps(task), []
        prior = leaves(_given(task))
        rates = {"mean": config.prompt_lr, "log_variance": config.variance_lr}
        optimizers = [self.optimizer(task, {name: prior[name]}, rate) for name, rate in rates.items()]
        for batch in local_batches(task):
            support, query = _split(batch, config.query)
            posterior = yield from self._adapt(task, prior, support, config.adapt_steps, noise)
            of_data = yield from self._cross_entropy_of_samples(task, posterior, query, next(noise))
            yield Backward(of_data + _divergence(task, detached(posterior), prior) + _hyperprior(task, prior))
            reached = {} if config.second_order else {name: leaf.grad for name, leaf in posterior.items()}
            for name, gradient in reached.items():
                prior[name].grad = gradient if prior[name].grad is None else prior[name].grad + gradient
            for optimizer in optimizers:
                optimizer.step()
            with torch.no_grad():
                prior["log_variance"].copy_(bounded(prior)["log_variance"])
            losses.append(of_data.detach())
        unsplit = float(config.query == "all" or len(task.train) % config.batch_size == 1)
        return Update(task.private, Message(detached(prior)), {**loss_metrics(losses), "unsplit_batches": unsplit})

    def uploads(self, world: World) -> dict[str, Spec]:
        return {name: Spec(context_shape(world)) for name in GAUSSIAN}

    def aggregate(self, server: State, arrived: Arrived) -> State:
        mean = arrived.mean()
        if arrived.world.config.variance_average == "precision":
            precisions = arrived.of_each(lambda sent: {"precision": sent["log_variance"].neg().exp()})
            mean["log_variance"] = precisions.mean()["precision"].log().neg()
        return mean

    def personalize(self, task: Task) -> Work[State]:
        """Adapt to all training examples; where that gives NaN or Inf, predict with the prior."""
        prior, steps = _given(task), task.config.test_steps if len(task.train) else 0
        noise = iter(_noise(task, steps, task.config.train_samples))
        reached = detached((yield from self._adapt(task, prior, task.train, steps, noise)))
        finite = torch.stack([tensor.isfinite().all() for tensor in reached.values()]).all()
        posterior = {name: torch.where(finite, reached[name], prior[name]) for name in GAUSSIAN}
        return (yield from self.with_samples(replace(task, private={**task.private, **posterior})))

    def contexts_to_predict(self, task: Task) -> Tensor:
        gaussian = task.private if "mean" in task.private else task.download.tensors
        return sampled_contexts(gaussian, task.config.prior_std, _noise(task, 1, task.config.test_samples)[0])

    def server_model(self, task: Task) -> State:
        """Return the private state without the posterior and its samples: the server predicts with the prior."""
        return {name: tensor for name, tensor in task.private.items() if name not in (*GAUSSIAN, SAMPLES)}

    def _adapt(self, task: Task, prior: State, examples: Examples, steps: int, noise: Iterator[Tensor]) -> Work[State]:
        """Take ``steps`` from the prior towards the posterior given ``examples``."""

        def objective(posterior: State) -> Work[Tensor]:
            of_data = yield from self._cross_entropy_of_samples(task, posterior, examples, next(noise))
            return of_data + _divergence(task, posterior, prior)

        through = task.config.second_order and any(tensor.requires_grad for tensor in prior.values())
        walk = descend_differentiably if through else descend
        prior = prior if through else detached(prior)
        return (yield from walk(prior, objective, bounded, lr=task.config.adapt_lr, steps=steps))

    def _cross_entropy_of_samples(self, task: Task, gaussian: State, examples: Examples, noise: Tensor) -> Work[Tensor]:
        """Return the mean cross-entropy over prompts sampled with ``noise [samples, (classes,) tokens, width]``."""
        text = yield Encode(sampled_contexts(gaussian, task.config.prior_std, noise))
        return torch.stack([self.cross_entropy(task, one, examples) for one in text]).mean()


def _divergence(task: Task, posterior: State, prior: State) -> Tensor | float:
    weight = task.config.kl_weight
    return weight / len(task.train) * kl_divergence(posterior, prior, task.config.prior_std) if weight else 0.0


def _hyperprior(task: Task, prior: State) -> Tensor | float:
    config, weight = task.config, task.config.hyperprior_weight / len(task.train)
    if not config.hyperprior_weight:
        return 0.0
    return weight * hyperprior(prior, config.prior_std, config.precision_shape, config.precision_rate)


def _given(task: Task) -> State:
    return {name: task.download.tensors[name] for name in GAUSSIAN}


def _split(batch: Examples, query: str) -> tuple[Examples, Examples]:
    """Return support and query: halves of the batch, or all of it for both, as it is for a single example."""
    half = len(batch) // 2
    return (batch, batch) if query == "all" or half == 0 else (batch[half:], batch[:half])


def _noise(task: Task, steps: int, samples: int) -> Tensor:
    return standard_normal(task, (steps, samples, *context_shape(task.world)))


def _noise_of_steps(task: Task) -> Iterator[Tensor]:
    """Yield the noise of each step; all of it is drawn at the first, so after the order of the examples."""
    config = task.config
    steps = config.local_epochs * ceil(len(task.train) / config.batch_size) * (config.adapt_steps + 1)
    yield from _noise(task, steps, config.train_samples)
