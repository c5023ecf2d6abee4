"""PromptFolio: a global and a local prompt, mixed in their text features.

Source: Pan, Huang, Shi: "Federated Learning from Vision-Language Foundation Models: Theoretical Analysis and Method",
NeurIPS 2024 (arXiv:2409.19610). A class has the text feature (1 - theta) T(P_g) + theta T(P_l), which is not normalized
again. Cross-entropy trains both prompts; P_g is averaged, P_l stays with the client.
Differs: each local update starts with a fresh optimizer.
"""

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from promptfleet.config import FederationConfig
from promptfleet.methods.parts.prompts import context_with_text, encoded, init_context
from promptfleet.methods.parts.training import detached, leaves, train_steps
from promptfleet.methods.promptfl import PromptFL
from promptfleet.methods.protocol import Images, Message, State, Task, Update, Work, World


class PromptFolioConfig(FederationConfig):
    """Configuration of PromptFolio."""

    local_share: float = Field(0.2, ge=0, le=1, description="theta, share of the local prompt in each text feature")


class PromptFolio(PromptFL):
    """One averaged and one private prompt.

    Server state, down and up as in PromptFL: the global ``context``. Private state: the local ``context`` and its
    ``text`` features. With ``local_share`` 0 it is PromptFL; with 1 the local prompt trains as in CoOp.
    """

    Config = PromptFolioConfig

    def init_client(self, world: World, client: int, rng: np.random.Generator) -> State:
        return context_with_text(world, init_context(world, rng))

    def local_update(self, task: Task) -> Work[Update]:
        parameters = leaves({"context": task.download.tensors["context"], "own.context": task.private["context"]})
        metrics = yield from train_steps(
            task,
            optimizers=[self.optimizer(task, parameters, task.config.prompt_lr)],
            contexts=lambda: torch.stack(list(parameters.values())),
            loss=lambda text, batch: self.cross_entropy(task, _mixed(task, *text), batch),
        )
        shared, own = detached(parameters).values()
        return Update((yield from encoded(own)), Message({"context": shared}), metrics)

    def trained_parameters(self, world: World) -> int:
        return 2 * super().trained_parameters(world)

    def predict(self, task: Task, images: Images) -> Tensor:
        return self.logits(task, images, _mixed(task, task.download.attached["text"], task.private["text"]))

    def server_model(self, task: Task) -> State:
        """Return the global prompt in the place of the local one: it predicts alone."""
        return {"text": task.download.attached["text"]}


def _mixed(task: Task, shared: Tensor, own: Tensor) -> Tensor:
    """Return the class features ``[classes, dim]`` of both prompts together, of length 1 or less."""
    return (1 - task.config.local_share) * shared + task.config.local_share * own
