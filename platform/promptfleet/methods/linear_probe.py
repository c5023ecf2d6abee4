"""Linear probe: a linear head on the frozen image features, trained by every client alone; the simple baseline.

z = s f W^T, multinomial logistic regression. Our choices: W starts as the zero-shot text features, so the first
prediction is zero-shot CLIP's and classes without local examples keep a sensible row; no bias; rows are not normalized
again; the same SGD, batches and budget of epochs as every prompt method has.
"""

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from promptfleet.methods.parts.no_communication import Solo, SoloConfig, epochs_now
from promptfleet.methods.parts.training import detached, leaves, train_steps
from promptfleet.methods.protocol import Images, Message, State, Task, Update, Work, World


class LinearProbeConfig(SoloConfig):
    """Configuration of a federation whose clients each train a linear head alone."""

    head_lr: float = Field(0.03, gt=0, description="learning rate of the linear head")


class LinearProbe(Solo):
    """Linear head alone. It has no prompt: the keys about one have no effect.

    Private state: ``head`` [classes, dim] and ``epochs``.
    """

    Config = LinearProbeConfig
    reworded = None  # a row per class that it was trained on

    def has_prompt(self, config: LinearProbeConfig) -> bool:
        return False

    def init_client(self, world: World, client: int, rng: np.random.Generator) -> State:
        return {"head": world.clip.zero_shot_text.clone(), "epochs": torch.tensor(0)}

    def local_update(self, task: Task) -> Work[Update]:
        epochs = epochs_now(task)
        parameters = leaves({"head": task.private["head"]})
        metrics = yield from train_steps(
            task,
            optimizers=[self.optimizer(task, parameters, task.config.head_lr)],
            loss=lambda _, batch: self.cross_entropy(task, parameters["head"], batch),
            epochs=epochs,
        )
        return Update({**detached(parameters), "epochs": task.private["epochs"] + epochs}, Message({}), metrics)

    def trained_parameters(self, world: World) -> int:
        return world.clip.zero_shot_text.numel()

    def predict(self, task: Task, images: Images) -> Tensor:
        return self.logits(task, images, task.private["head"])
