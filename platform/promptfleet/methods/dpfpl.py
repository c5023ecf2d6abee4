"""DP-FPL: an averaged prompt plus a private part, whose low-rank factors and the average are trained under noise.

Source: Tran et al.: "Privacy-Preserving Personalized Federated Prompt Learning for Multimodal Large Language Models",
ICLR 2025 (arXiv:2501.13904). P_i = P_g + U_i V_i + R_i. Before each step, Q = U V + R is factored again by power
iteration: U = orth(Q V^T), V = U^T Q, R = Q - U V. The gradients of U and V are clipped and noised by the client (local
privacy), the mean step of P_g by the server (global privacy).
Differs: a client sends its step of a whole round, clipped, not a gradient after each batch. Without its
noise nothing is clipped, and with rank 0 there is no private part. No budget is computed from the noise; that of
``privacy`` is.
"""

from math import prod

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from promptfleet.config import FederationConfig
from promptfleet.devices import from_numpy
from promptfleet.methods.parts.prompts import (
    context_shape,
    context_with_text,
    encoded,
    init_context,
    local_batches,
    require_rank,
)
from promptfleet.methods.parts.training import detached, leaves, loss_metrics
from promptfleet.methods.promptfl import PromptFL
from promptfleet.methods.protocol import Arrived, Backward, Encode, Message, State, Task, Update, Work, World


class DPFPLConfig(FederationConfig):
    """Configuration of DP-FPL."""

    private_rank: int = Field(
        default_factory=lambda values: min(8, values["prompt_length"]),
        ge=0,
        description="rank of the trained private part; default: 8 (published), or prompt_length if that is less",
    )
    local_noise: float = Field(
        0.0, ge=0, description="deviation of the noise in the gradients of the private factors, in units of their clip"
    )
    gradient_clip: float = Field(1.0, gt=0, description="largest norm of each factor's gradient, under local_noise")
    global_noise: float = Field(
        0.0, ge=0, description="deviation of the noise in the mean step, in units of the most that one client adds"
    )
    step_clip: float = Field(1.0, gt=0, description="largest norm of a client's step of a round, under global_noise")


class DPFPL(PromptFL):
    """An averaged prompt and a private part in factors and a rest.

    Server state, down and up as in PromptFL: the global ``context``. Private state: ``left`` [tokens, rank],
    ``right`` [rank, width], ``rest`` [tokens, width], for each class where contexts are class-specific.
    """

    Config = DPFPLConfig

    def check(self, world: World) -> None:
        super().check(world)
        require_rank(world, "private_rank", world.config.private_rank)

    def init_client(self, world: World, client: int, rng: np.random.Generator) -> State:
        *classes, _, width = context_shape(world)
        own = init_context(world, rng)
        start = rng.normal(size=(*classes, world.config.private_rank, width)).astype(np.float32)
        left, right, rest = factored(own, torch.from_numpy(start))
        return {"left": left, "right": right, "rest": rest if world.config.private_rank else torch.zeros_like(rest)}

    def local_update(self, task: Task) -> Work[Update]:
        config, start, rest = task.config, task.download.tensors["context"], task.private["rest"]
        parameters = leaves({"context": start, **{name: task.private[name] for name in ("left", "right")}})
        shared, *factors = parameters.values()
        left, right = factors
        optimizer, losses = self.optimizer(task, parameters, config.prompt_lr), []
        for batch in local_batches(task):
            with torch.no_grad():
                *again, rest = factored(left @ right + rest, right)
                for factor, new in zip(factors, again, strict=True):
                    factor.copy_(new)
            (text,) = yield Encode((shared + left @ right + rest).unsqueeze(0))
            loss = self.cross_entropy(task, text, batch)
            yield Backward(loss)
            if config.local_noise:
                for factor in factors:
                    factor.grad = clipped(factor.grad, config.gradient_clip)
                    factor.grad += _noise(factor, config.local_noise * config.gradient_clip, task.rng)
            optimizer.step()
            losses.append(loss.detach())
        trained = detached(parameters)
        context = trained.pop("context")
        if config.global_noise:
            context = start + clipped(context - start, config.step_clip)
        return Update({**trained, "rest": rest}, Message({"context": context}), loss_metrics(losses))

    def aggregate(self, server: State, arrived: Arrived) -> State:
        config, context = arrived.world.config, arrived.mean()["context"]
        if config.global_noise:
            counts = [arrived.num_examples[client] for client in arrived.uploads]
            most = max(counts) / sum(counts) * config.step_clip
            context = context + _noise(context, config.global_noise * most, arrived.rng)
        return context_with_text(arrived.world, context)

    def trained_parameters(self, world: World) -> int:
        *classes, tokens, width = context_shape(world)
        return super().trained_parameters(world) + prod(classes) * world.config.private_rank * (tokens + width)

    def personalize(self, task: Task) -> Work[State]:
        """Encode the client's part on top of the present global prompt."""
        own = task.private["left"] @ task.private["right"] + task.private["rest"]
        return (yield from encoded(task.download.tensors["context"] + own))


def factored(own: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return U, V and R of ``own [..., tokens, width]`` by one power iteration from ``right [..., rank, width]``."""
    left, _ = torch.linalg.qr(own @ right.mT)
    right = left.mT @ own
    return left, right, own - left @ right


def clipped(tensor: Tensor, most: float) -> Tensor:
    """Return the tensor, shortened to the norm ``most`` if it is longer."""
    return tensor * (most / tensor.norm().clamp(min=most))


def _noise(like: Tensor, std: float, rng: np.random.Generator) -> Tensor:
    return from_numpy(rng.normal(0.0, std, like.shape).astype(np.float32), like.device)
