"""FedPHA: an averaged prompt of one length, and local prompts of other lengths that keep away from it.

Source: Fang et al.: "FedPHA: Federated Prompt Learning for Heterogeneous Client Adaptation", ICML 2025. With the
global prompt P_g = U S V^T, P_proj = P_l V_2 V_2^T projects the local prompt onto the right singular vectors V_2 after
the first ones. The loss is CE(P_l) + CE(P_g) + MSE(T(P_l), T(P_proj)) + mean over classes of
relu(alpha - |T(P_l) - T(P_g)|). P_g is averaged, P_l predicts.
Differs: V is full here, so V_2 has the directions in which P_g has nothing; the published code leaves them out, and
sends no text but of the longest prompt through the encoder at its right end. No gradient goes through the singular
vectors. A client that never trained predicts with the global prompt.
"""

from math import ceil, prod

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from promptfleet.config import FederationConfig
from promptfleet.devices import from_numpy
from promptfleet.errors import ConfigError
from promptfleet.methods.parts.prompts import CONTEXT_STD, context_shape, encoded
from promptfleet.methods.parts.training import detached, leaves, steps
from promptfleet.methods.promptfl import PromptFL
from promptfleet.methods.protocol import Encode, Examples, Message, State, Task, Update, Work, World


class FedPHAConfig(FederationConfig):
    """Configuration of FedPHA; the global prompt has ``prompt_length`` tokens."""

    local_length_min: int = Field(
        default_factory=lambda values: max(1, values["prompt_length"] // 2),
        ge=1,
        description="fewest tokens of a local prompt; each client draws its number; default: half of prompt_length",
    )
    local_length_max: int = Field(
        default_factory=lambda values: max(values["local_length_min"], 2 * values["prompt_length"]),
        ge=1,
        description="most tokens of a local prompt; default: twice prompt_length",
    )
    projection_ratio: float = Field(
        0.8,
        ge=0,
        le=1,
        description="share of the global prompt's directions, the last ones, that the projection keeps; rounded up, so "
        "that 0.8 keeps all of fewer than 5 tokens",
    )
    pull_weight: float = Field(1.0, ge=0, description="weight of the distance to the projected prompt's text features")
    push_weight: float = Field(1.0, ge=0, description="weight of the nearness to the global prompt's text features")
    push_margin: float = Field(1.0, ge=0, le=2, description="alpha, distance of text features that is far enough")

    @model_validator(mode="after")
    def _check(self) -> "FedPHAConfig":
        if self.local_length_min > self.local_length_max:
            raise ValueError(
                f"local_length_min={self.local_length_min} exceeds local_length_max={self.local_length_max}"
            )
        return self


class FedPHA(PromptFL):
    """An averaged prompt, and a private one of each client's own length.

    Server state, down and up as in PromptFL: the global ``context``. Private state: the local ``context``
    [own tokens, width], its ``text`` features, ``participations``.
    """

    Config = FedPHAConfig

    def check(self, world: World) -> None:
        super().check(world)
        if world.clip.classes.frame:
            raise ConfigError(
                f"method {world.config.method}: local prompts have numbers of vectors of their own, and the template "
                "has places for one number; leave template out"
            )
        room = world.clip.tower.positions - 1 - int(world.clip.classes.lengths.max())
        if world.config.local_length_max > room:
            raise ConfigError(
                f"local_length_max={world.config.local_length_max} does not fit: the text tower leaves room for {room} "
                "tokens before the longest class name"
            )

    def init_client(self, world: World, client: int, rng: np.random.Generator) -> State:
        tokens = int(rng.integers(world.config.local_length_min, world.config.local_length_max + 1))
        local = rng.normal(0.0, CONTEXT_STD, _local_shape(world, tokens)).astype(np.float32)
        text = torch.zeros(len(world.clip.classes), world.clip.tower.dim)
        return {"context": torch.from_numpy(local), "text": text, "participations": torch.tensor(0)}

    def local_update(self, task: Task) -> Work[Update]:
        config = task.config
        parameters = leaves({"context": task.download.tensors["context"], "own.context": task.private["context"]})
        shared, own = parameters.values()

        longest = max(config.local_length_max, shared.shape[-2])  # the same for all clients: one batch
        lengths = from_numpy(np.array([own.shape[-2], own.shape[-2], shared.shape[-2]]), shared.device)

        def loss(batch: Examples) -> Work[Tensor]:
            prompts = own, projected(own, shared.detach(), config.projection_ratio), shared
            contexts = torch.stack([F.pad(one, (0, 0, 0, longest - one.shape[-2])) for one in prompts])
            local_text, projected_text, shared_text = yield Encode(contexts, lengths=lengths)
            near = F.relu(config.push_margin - (local_text - shared_text).norm(dim=-1)).mean()
            return (
                self.cross_entropy(task, local_text, batch)
                + self.cross_entropy(task, shared_text, batch)
                + config.pull_weight * F.mse_loss(local_text, projected_text)
                + config.push_weight * near
            )

        metrics = yield from steps(task, optimizers=[self.optimizer(task, parameters, config.prompt_lr)], loss=loss)
        upload, local = detached(parameters).values()
        participations = {"participations": task.private["participations"] + 1}
        private = {**(yield from encoded(local)), **participations}
        return Update(private, Message({"context": upload}), metrics)

    def trained_parameters(self, world: World) -> int:
        """Count those of a client with the longest local prompt."""
        return super().trained_parameters(world) + prod(_local_shape(world, world.config.local_length_max))


def projected(local: Tensor, shared: Tensor, ratio: float) -> Tensor:
    """Return the prompt ``local [..., width]`` without the first directions of ``shared [..., width]``.

    Of the right singular vectors of ``shared``, all its tokens as rows, the share ``ratio`` stays, and so do all
    directions orthogonal to them: I - V_1 V_1^T is V_2 V_2^T for a full V = [V_1, V_2].
    """
    _, values, rows = torch.linalg.svd(shared.flatten(0, -2), full_matrices=False)
    first = rows[: len(values) - ceil(ratio * len(values))]
    return local - local @ first.T @ first


def _local_shape(world: World, tokens: int) -> tuple[int, ...]:
    *classes, _, width = context_shape(world)
    return (*classes, tokens, width)
