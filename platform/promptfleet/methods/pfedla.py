"""pFedLA: each client attends to the channels of its image features by a network that it trains and keeps.

Source: Liang, Tian, Yang, Zhang, "Personalized Federated Learning with Local Attention", arXiv:2304.01783; withdrawn by
its authors, so from its abstract alone: attention blocks are never shared, are put into any federated method without
more communication, and are a single or a hybrid module. The modules here are ours, behind the frozen encoder:
f' = norm(c(f) f) or, hybrid, norm(c(f) f + a h), see ``parts.channel_attention``; f' = f at the start. Method and
attention are trained by one loss: in the same steps, or the attention first, by a local update whose method stands
still, and then the method with a fixed attention.
Another method of this name, by Ma et al. (CVPR 2022), aggregates layers at the server.
"""

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import ClassVar, Literal

import numpy as np
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from promptfleet.config import FederationConfig
from promptfleet.devices import from_numpy
from promptfleet.errors import ConfigError
from promptfleet.methods.fedpgp import FedPGP, FedPGPConfig
from promptfleet.methods.parts.channel_attention import (
    TOWARDS_IDENTITY,
    attended,
    attention_shapes,
    init_attention,
    seen,
)
from promptfleet.methods.parts.optimizers import SGD, Optimizer
from promptfleet.methods.parts.plug_ins import also_stepping, finished
from promptfleet.methods.parts.prompt_method import PromptMethod
from promptfleet.methods.parts.states import prefixed, unprefixed
from promptfleet.methods.parts.training import detached, leaves
from promptfleet.methods.pfedmoap import PFedMoAP, PFedMoAPConfig
from promptfleet.methods.promptfl import PromptFL, PromptFLConfig
from promptfleet.methods.protocol import Images, Needs, State, Task, Update, Work, World

_ATTENTION = "attention."


class LocalAttentionConfig(FederationConfig):
    """Configuration of the plug-in."""

    attention_lr: float = Field(0.01, ge=0, description="learning rate of the attention")
    attention_decay: float = Field(5e-4, ge=0, description="weight decay of the attention towards the identity")
    attention_reduction: int = Field(16, ge=1, description="channels of an image for each hidden unit of the attention")
    attention_dropout: float = Field(
        0.0, ge=0, lt=1, description="share of channels that a training step leaves as they are, drawn for each image"
    )
    attention_order: Literal["together", "first"] = Field(
        "together",
        description="train attention and method in the same steps, or the attention first, in as many epochs",
    )


class LocalAttention(PromptMethod):
    """A plug-in over the seam ``features``, the single module. Private state: ``attention.*``; it sends nothing."""

    Config = LocalAttentionConfig
    hybrid: ClassVar[bool] = False

    def check(self, world: World) -> None:
        super().check(world)
        name, dim = world.config.method, world.clip.tower.dim
        if super().trained_parameters(world) == 0:
            raise ConfigError(
                f"method {name}: LocalAttention learns from the gradients of the method below it, which trains "
                "nothing; put it over one that trains, such as PromptFL"
            )
        if world.config.attention_reduction > dim:
            raise ConfigError(
                f"attention_reduction={world.config.attention_reduction} exceeds the {dim} channels of an image; "
                f"set it to {dim} or less"
            )

    def features(self, task: Task, images: Images) -> Tensor:
        features, attention = super().features(task, images), unprefixed(_ATTENTION, task.private)
        if not attention:
            return features
        kept = _kept(task, features) if task.config.attention_dropout and _is_trained(attention) else None
        added = seen(attention, images.patches) if self.hybrid else 0
        return F.normalize(attended(attention, features, kept) + added, dim=-1)

    def optimizer(self, task: Task, parameters: Mapping[str, Tensor], lr: float) -> Optimizer:
        """Return one that stands still while the attention is trained first."""
        first = task.config.attention_order == "first" and _is_trained(unprefixed(_ATTENTION, task.private))
        return SGD(parameters, lr=0.0) if first else super().optimizer(task, parameters, lr)

    def init_client(self, world: World, client: int, rng: np.random.Generator) -> State:
        private = super().init_client(world, client, rng)
        return {**private, **prefixed(_ATTENTION, init_attention(*_sizes(world), rng, hybrid=self.hybrid))}

    def local_update(self, task: Task) -> Work[Update]:
        config, own = task.config, leaves(unprefixed(_ATTENTION, task.private))
        decays = {name: config.attention_decay if name in TOWARDS_IDENTITY else 0.0 for name in own}
        optimizers = [
            SGD({name: own[name]}, lr=config.attention_lr, momentum=config.momentum, weight_decay=decays[name])
            for name in own
        ]
        update = yield from also_stepping(super().local_update(_with(task, own)), optimizers)
        if config.attention_order == "first":
            update = yield from finished(super().local_update(_with(task, detached(own))))
        return replace(update, private={**update.private, **prefixed(_ATTENTION, detached(own))})

    def personalize(self, task: Task) -> Work[State]:
        personal = yield from finished(super().personalize(task))
        return {**personal, **prefixed(_ATTENTION, unprefixed(_ATTENTION, task.private))}

    def trained_parameters(self, world: World) -> int:
        shapes = attention_shapes(*_sizes(world), hybrid=self.hybrid)
        return super().trained_parameters(world) + sum(prod(shape) for shape in shapes.values())


def _sizes(world: World) -> tuple[int, int]:
    """Return the channels of an image and the hidden units of an attention."""
    return world.clip.tower.dim, world.clip.tower.dim // world.config.attention_reduction


def _with(task: Task, attention: State) -> Task:
    return replace(task, private={**task.private, **prefixed(_ATTENTION, attention)})


def _is_trained(attention: State) -> bool:
    return any(tensor.requires_grad for tensor in attention.values())


def _kept(task: Task, features: Tensor) -> Tensor:
    """Return 0 where dropout leaves a channel as it is, and else what keeps the mean of the others' effect."""
    share = 1 - task.config.attention_dropout
    return from_numpy((task.rng.random(features.shape) < share).astype(np.float32) / np.float32(share), features.device)


class HybridAttention(LocalAttention):
    """The hybrid module: attention to patches as well. Private state: also ``attention.scorer`` and ``.gate``."""

    needs: ClassVar[Needs] = Needs.PATCHES
    hybrid: ClassVar[bool] = True

    def check(self, world: World) -> None:
        super().check(world)
        if super().needs is not Needs.GLOBAL:
            raise ConfigError(
                f"method {world.config.method}: HybridAttention adds patches to one feature per image, and the method "
                "below it compares others; put LocalAttention over it"
            )


class PFedLAConfig(PromptFLConfig, LocalAttentionConfig):
    """A federation that runs pFedLA over PromptFL."""


class PFedLA(LocalAttention, PromptFL):
    """Shared prompt, and a private attention to channels."""

    Config = PFedLAConfig


class PFedLAHybrid(HybridAttention, PromptFL):
    """Shared prompt, and a private attention to channels and patches."""

    Config = PFedLAConfig


class FedPGPConfigWithAttention(FedPGPConfig, LocalAttentionConfig):
    """Configuration of FedPGP with the plug-in."""


class PFedLAonFedPGP(LocalAttention, FedPGP):
    """FedPGP with a private attention to channels."""

    Config = FedPGPConfigWithAttention


class PFedMoAPConfigWithAttention(PFedMoAPConfig, LocalAttentionConfig):
    """Configuration of pFedMoAP with the plug-in."""


class PFedLAonPFedMoAP(LocalAttention, PFedMoAP):
    """PFedMoAP with a private attention to channels."""

    Config = PFedMoAPConfigWithAttention
