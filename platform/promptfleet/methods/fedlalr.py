"""FedLALR: clients step by AMSGrad, and the moments of the gradients are averaged like the parameters.

Source: Sun, Shen, Chen, Sun, Li, Sun, Tao, "FedLALR: Client-Specific Adaptive Learning Rates Achieve Linear Speedup for
Non-IID Data", arXiv:2309.09719, Algorithm 1. With the gradient g, a local step is
m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;  w = max(w, v);  x = x - lr m / sqrt(w),
where v starts each round as w, and w starts as eps^2. The server averages x, m and w over the cohort.
``LocalAMSGrad`` is a plug-in over any prompt method that uploads what it trains; FedLALR is PromptFL with it.
Differs: parameters that stay with a client have fresh moments in each update. ``momentum`` and ``weight_decay`` have no
effect on what AMSGrad steps: neither is in the algorithm.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from promptfleet.config import FederationConfig
from promptfleet.errors import ConfigError
from promptfleet.methods.fedpgp import FedPGP, FedPGPConfig
from promptfleet.methods.parts.optimizers import AMSGrad, Optimizer
from promptfleet.methods.parts.plug_ins import finished
from promptfleet.methods.parts.prompt_method import PromptMethod
from promptfleet.methods.parts.states import prefixed, unprefixed
from promptfleet.methods.pfedmoap import PFedMoAP, PFedMoAPConfig
from promptfleet.methods.promptfl import PromptFL
from promptfleet.methods.protocol import Arrived, Call, Message, Spec, State, Task, Update, Work, World

_MOMENTS = "moments."


class LocalAMSGradConfig(FederationConfig):
    """Configuration of the plug-in."""

    prompt_lr: float = Field(0.001, gt=0, description="learning rate of the prompt: of AMSGrad, so smaller than SGD's")
    beta1: float = Field(0.9, ge=0, lt=1, description="decay of the mean of gradients (published: 0.9)")
    beta2: float = Field(0.995, ge=0, le=1, description="decay of the mean of squares (published: 0.995 or 0.998)")
    eps: float = Field(1e-8, gt=0, description="smallest root of the mean of squares, its start")
    send_mean: bool = Field(True, description="send the mean of gradients; otherwise it is 0 at the start of a round")
    largest_average: Literal["mean", "max"] = Field(
        "mean", description="average of the clients' largest means of squares: their mean, or the largest of each entry"
    )
    weighting: Literal["equal", "examples"] = Field(
        "equal", description="weight of clients in all averages: equal (published), or by examples"
    )


class LocalAMSGrad(PromptMethod):
    """A plug-in over the seam ``optimizer``: AMSGrad steps what is uploaded, and its moments travel with that.

    Server state, down and up: ``moments.mean.NAME`` and ``moments.largest.NAME`` of each uploaded tensor NAME. An
    optimizer of private tensors alone, such as that of a gate, stays the method's own.
    """

    Config = LocalAMSGradConfig

    def check(self, world: World) -> None:
        super().check(world)
        shared = {name: spec for name, spec in super().uploads(world).items() if spec.is_point}
        if not shared:
            raise ConfigError(
                f"method {world.config.method}: LocalAMSGrad averages the moments of what clients train and upload, "
                "and the method below it uploads nothing trained; put it over one that does, such as PromptFL"
            )
        for name, spec in shared.items():
            if not all(isinstance(size, int) for size in spec.shape):
                raise ConfigError(
                    f"method {world.config.method}: LocalAMSGrad needs uploads of the same shape from all clients, and "
                    f"the shape of {name} is {spec.shape}; put it over another method, such as PromptFL"
                )

    def optimizer(self, task: Task, parameters: Mapping[str, Tensor], lr: float) -> Optimizer:
        if not parameters.keys() & super().uploads(task.world).keys():
            return super().optimizer(task, parameters, lr)
        config, moments = task.config, unprefixed(_MOMENTS, task.private)
        return AMSGrad(parameters, lr=lr, betas=(config.beta1, config.beta2), eps=config.eps, state=moments)

    def init_server(self, world: World, rng: np.random.Generator) -> Work[State]:
        moments = {}
        for name, spec in self._moments(world).items():
            kind = name.removeprefix(_MOMENTS).partition(".")[0]
            moments[name] = torch.full(spec.shape, 0.0 if kind == "mean" else world.config.eps**2)
        return {**(yield from finished(super().init_server(world, rng))), **moments}

    def select(self, server: State, call: Call) -> dict[int, Message]:
        moments = {name: server[name] for name in self._moments(call.world)}
        downloads = super().select(server, call)
        return {client: replace(one, tensors={**one.tensors, **moments}) for client, one in downloads.items()}

    def local_update(self, task: Task) -> Work[Update]:
        moments = _received(task)
        update = yield from finished(super().local_update(_with(task, moments)))
        private = {name: tensor for name, tensor in update.private.items() if name not in moments}
        upload = replace(update.upload, tensors={**update.upload.tensors, **moments})
        roots = torch.cat([tensor.flatten() for name, tensor in moments.items() if ".largest." in name]).sqrt()
        return Update(private, upload, {**update.metrics, "mean_rate": float((task.config.prompt_lr / roots).mean())})

    def personalize(self, task: Task) -> Work[State]:
        moments = _received(task)
        personal = yield from finished(super().personalize(_with(task, moments)))
        return {name: tensor for name, tensor in personal.items() if name not in moments}

    def uploads(self, world: World) -> dict[str, Spec]:
        return {**super().uploads(world), **self._moments(world)}

    def aggregate(self, server: State, arrived: Arrived) -> Work[State]:
        config, moments = arrived.world.config, self._moments(arrived.world)
        if config.weighting == "equal":
            arrived = replace(arrived, num_examples=dict.fromkeys(arrived.uploads, 1))
        averaged = arrived.mean(names=moments)
        for name in (name for name in averaged if ".largest." in name):
            if config.largest_average == "max":
                averaged[name] = torch.stack(list(arrived.sent(name).values())).amax(dim=0)
            averaged[name] = averaged[name].clamp(min=config.eps**2)  # a mean may be rounded to less
        below = arrived.of_each(lambda sent: {name: sent[name] for name in sent if name not in moments})
        return {**(yield from finished(super().aggregate(server, below))), **averaged}

    def _moments(self, world: World) -> dict[str, Spec]:
        """Return the form of the moments that travel."""
        kinds = ("mean", "largest") if world.config.send_mean else ("largest",)
        shared = {name: spec.shape for name, spec in super().uploads(world).items() if spec.is_point}
        moments = {f"{kind}.{name}": Spec(shared[name], trained=False) for kind in kinds for name in shared}
        return prefixed(_MOMENTS, moments)


def _received(task: Task) -> State:
    """Return copies of the downloaded moments, which an optimizer changes in place."""
    return {name: tensor.clone() for name, tensor in task.download.tensors.items() if name.startswith(_MOMENTS)}


def _with(task: Task, moments: State) -> Task:
    return replace(task, private={**task.private, **moments})


class FedLALR(LocalAMSGrad, PromptFL):
    """FedLALR on one prompt: server state, down and up are PromptFL's and the moments of ``context``."""


class FedPGPConfigWithMoments(LocalAMSGradConfig, FedPGPConfig):
    """Configuration of FedPGP with the plug-in."""


class FedLALRonFedPGP(LocalAMSGrad, FedPGP):
    """FedPGP whose prompt and factors are stepped by AMSGrad."""

    Config = FedPGPConfigWithMoments


class PFedMoAPConfigWithMoments(LocalAMSGradConfig, PFedMoAPConfig):
    """Configuration of pFedMoAP with the plug-in."""


class FedLALRonPFedMoAP(LocalAMSGrad, PFedMoAP):
    """PFedMoAP whose prompt is stepped by AMSGrad; a private gate keeps its optimizer."""

    Config = PFedMoAPConfigWithMoments
