"""FedPGP: a global prompt that stays near CLIP's own knowledge, plus a low-rank part of each client's own.

Source: Cui, Li, Wang, Shi: "Harmonizing Generalization and Personalization in Federated Prompt Learning", ICML 2024
(arXiv:2405.09771). P_i = sigma + U_i V_i, and the loss is cross-entropy with P_i plus mu times a contrast per class:
sigma's text feature shall be near the hand-written prompt's and away from P_i's.
Differs: every client starts with its own factors, while the published code trains all clients in round 1; the
hand-written prompt is the dataset's template, as in the paper, not the code's placeholder words. The published script
runs two prompts per class, hence 2 C logits, and passes momentum on from client to client; here it is the paper's one
prompt, and each local update starts without momentum.
"""

from math import prod

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from promptfleet.config import FederationConfig
from promptfleet.methods.parts.prompts import CONTEXT_STD, context_shape, encoded, require_rank
from promptfleet.methods.parts.training import detached, leaves, train_steps
from promptfleet.methods.promptfl import PromptFL
from promptfleet.methods.protocol import Examples, Message, State, Task, Update, Work, World

_FACTORS = ("left", "right")


class FedPGPConfig(FederationConfig):
    """Configuration of FedPGP."""

    factor_rank: int = Field(
        default_factory=lambda values: min(4, values["prompt_length"]),
        ge=1,
        description="rank of the client's private part of the prompt; default: 4, or prompt_length if that is less",
    )
    contrast_weight: float = Field(1.0, ge=0, description="mu, weight of the contrastive loss")
    contrast_temperature: float = Field(0.5, gt=0, description="tau, temperature of the contrastive loss")


class FedPGP(PromptFL):
    """Averaged prompt and a private low-rank part.

    Server state, down and up as in PromptFL: the global ``context`` sigma. Private state: ``left`` [tokens, rank] and
    ``right`` [rank, width], for each class where contexts are class-specific.
    """

    Config = FedPGPConfig

    def check(self, world: World) -> None:
        super().check(world)
        require_rank(world, "factor_rank", world.config.factor_rank)

    def init_client(self, world: World, client: int, rng: np.random.Generator) -> State:
        *classes, tokens, width = context_shape(world)
        rank = world.config.factor_rank

        def normal(*shape: int) -> Tensor:
            return torch.from_numpy(rng.normal(0.0, CONTEXT_STD, shape).astype(np.float32))

        return {"left": normal(*classes, tokens, rank), "right": normal(*classes, rank, width)}

    def local_update(self, task: Task) -> Work[Update]:
        config, anchor = task.config, task.world.clip.zero_shot_text
        parameters = leaves(
            {"context": task.download.tensors["context"], **{name: task.private[name] for name in _FACTORS}}
        )
        shared, left, right = (parameters[name] for name in ("context", *_FACTORS))

        def loss(text: Tensor, batch: Examples) -> Tensor:
            personal, general = text
            contrast = contrastive_loss(anchor, general, personal, config.contrast_temperature)
            return self.cross_entropy(task, personal, batch) + config.contrast_weight * contrast

        metrics = yield from train_steps(
            task,
            optimizers=[self.optimizer(task, parameters, config.prompt_lr)],
            contexts=lambda: torch.stack([shared + left @ right, shared]),
            loss=loss,
        )
        trained = detached(parameters)
        upload = Message({"context": trained.pop("context")})
        return Update(trained, upload, metrics)

    def trained_parameters(self, world: World) -> int:
        *classes, tokens, width = context_shape(world)
        return super().trained_parameters(world) + prod(classes) * world.config.factor_rank * (tokens + width)

    def personalize(self, task: Task) -> Work[State]:
        """Encode the client's part on top of the present global prompt."""
        own = task.private["left"] @ task.private["right"]
        return (yield from encoded(task.download.tensors["context"] + own))


def contrastive_loss(anchor: Tensor, general: Tensor, personal: Tensor, temperature: float) -> Tensor:
    """Return the mean over classes of -log(e^a / (e^a + e^b)).

    Here a = <anchor, general> / t and b = <general, personal> / t.

    All text features ``[classes, dim]``, unit norm. Source: arXiv:2405.09771, contrastive loss.
    """
    near = (anchor * general).sum(dim=-1)
    away = (general * personal).sum(dim=-1)
    return F.softplus((away - near) / temperature).mean()
