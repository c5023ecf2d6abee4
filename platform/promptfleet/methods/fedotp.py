"""FedOTP: a global and a local prompt, matched to the patches of each image by unbalanced optimal transport.

Source: Li, Huang, Wang, Shi: "Global and Local Prompts Cooperation via Optimal Transport for Federated Learning",
CVPR 2024 (arXiv:2403.00041). With S the cosines of M patches and 2 prompts of a class, and P their transport plan (see
``transport``), a class scores scale * sum(P * S); gradients flow through S alone.
Differs: every client starts with its own local prompt, while the published code trains all clients in round 1;
an image and class without a finite plan takes the uniform one instead of ending the run; each local update starts
without momentum, where the published loop passes one optimizer's on from client to client.
"""

from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from promptfleet.config import FederationConfig
from promptfleet.methods.parts.optimal_transport import transport_scores
from promptfleet.methods.parts.prompts import context_with_text, encoded, init_context
from promptfleet.methods.parts.training import detached, leaves, train_steps
from promptfleet.methods.promptfl import PromptFL
from promptfleet.methods.protocol import Images, Message, Needs, State, Task, Update, Work, World

_UNIFORM = "uniform_plans"  # images and classes of a local update without a finite plan
_IMAGES = 64  # images whose patches are in memory at a time in prediction


class FedOTPConfig(FederationConfig):
    """Configuration of FedOTP."""

    transport_mass: float = Field(0.8, gt=0, le=1, description="gamma, fraction of an image's patches to transport")
    transport_epsilon: float = Field(
        0.1, gt=0, description="entropy regularization of the transport plan; small is sharp"
    )
    transport_iterations: int = Field(100, ge=1, description="largest number of scaling iterations per transport plan")
    cold_start: Literal["own", "global"] = Field(
        "own", description="local prompt of a client before it trains: its own initial prompt, or the global prompt"
    )


class FedOTP(PromptFL):
    """One averaged and one private prompt, on patch features.

    Server state, down and up as in PromptFL: the global ``context``. Private state: the local ``context``, its ``text``
    features and ``participations``.
    """

    Config = FedOTPConfig
    needs = Needs.PATCHES

    def init_client(self, world: World, client: int, rng: np.random.Generator) -> State:
        return {**context_with_text(world, init_context(world, rng)), "participations": torch.tensor(0)}

    def features(self, task: Task, images: Images) -> Tensor:
        return images.patches

    def scores(self, task: Task, features: Tensor, text: Tensor) -> Tensor:
        config = task.config
        scores, finite = transport_scores(
            features,
            text,
            mass=config.transport_mass,
            epsilon=config.transport_epsilon,
            iterations=config.transport_iterations,
        )
        if _UNIFORM in task.private:
            task.private[_UNIFORM].add_((~finite).sum())
        return task.world.clip.logit_scale * scores

    def local_update(self, task: Task) -> Work[Update]:
        parameters = leaves({"context": task.download.tensors["context"], "own.context": task.private["context"]})
        uniform = torch.zeros((), dtype=torch.int64, device=task.world.device)
        counting = replace(task, private={**task.private, _UNIFORM: uniform})
        metrics = yield from train_steps(
            task,
            optimizers=[self.optimizer(task, parameters, task.config.prompt_lr)],
            contexts=lambda: torch.stack(list(parameters.values())),
            loss=lambda text, batch: self.cross_entropy(counting, text, batch),
        )
        shared, own = detached(parameters).values()
        next_private = {**(yield from encoded(own)), "participations": task.private["participations"] + 1}
        return Update(next_private, Message({"context": shared}), {**metrics, _UNIFORM: float(uniform)})

    def trained_parameters(self, world: World) -> int:
        return 2 * super().trained_parameters(world)

    def predict(self, task: Task, images: Images) -> Tensor:
        shared = task.download.attached["text"]
        cold = task.private["participations"] == 0 and task.config.cold_start == "global"
        text = torch.stack([shared, shared if cold else task.private["text"]])
        batches = torch.arange(len(images)).split(_IMAGES)
        return torch.cat([self.logits(task, images[chosen], text) for chosen in batches])

    server_model = None  # it has one of two prompts
