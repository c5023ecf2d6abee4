"""pFedPrompt: a prompt that all clients share, and a private memory of the client's own image features.

Source: Guo, Guo, Wang, "pFedPrompt: Learning Personalized Prompt for Vision-Language Models in Federated Learning",
WWW 2023 (doi:10.1145/3543507.3583518), from its abstract; the memory's formula is Tip-Adapter's (arXiv:2111.03930):
z = s f T(P_g)^T + alpha exp(-beta (1 - f F^T)) Y. No gradient goes through the memory.
"""

from dataclasses import replace

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from promptfleet.methods.promptfl import PromptFL, PromptFLConfig
from promptfleet.methods.protocol import Images, State, Task, Work, World


class PFedPromptConfig(PromptFLConfig):
    """A federation that runs pFedPrompt."""

    memory_weight: float = Field(
        10.0, ge=0, description="alpha, weight of the logits of the local memory (Tip-Adapter: 1)"
    )
    memory_sharpness: float = Field(
        5.5,
        ge=0,
        description="beta, sharpness of the memory: decay of a stored example with distance (Tip-Adapter: 5.5)",
    )


class PFedPrompt(PromptFL):
    """PromptFL, and a memory of the training features that is made again for each evaluation and never sent."""

    Config = PFedPromptConfig

    def personalize(self, task: Task) -> State:
        return {"features": self.features(task, task.train.images), "labels": task.train.labels}

    def reworded(self, task: Task, world: World) -> Work[Task]:
        task = yield from super().reworded(task, world)
        return replace(task, private=_forgotten(task.private))  # it is of other classes

    def server_model(self, task: Task) -> State:
        """Return an empty memory: the shared prompt alone."""
        return _forgotten(task.private)

    def predict(self, task: Task, images: Images) -> Tensor:
        config, memory = task.config, task.private
        features = self.features(task, images)
        one_hot = F.one_hot(memory["labels"], len(task.world.class_names)).to(features.dtype)
        scores = memory_scores(features, memory["features"], one_hot, config.memory_sharpness)
        return super().predict(task, images) + config.memory_weight * scores


def _forgotten(private: State) -> State:
    """Return the private state with an empty memory."""
    return {**private, **{name: private[name][:0] for name in ("features", "labels")}}


def memory_scores(images: Tensor, memory: Tensor, one_hot: Tensor, sharpness: float) -> Tensor:
    """Return ``[batch, classes]``, the weight of each class near the image; at most its number of examples.

    images ``[batch, dim]`` and memory ``[examples, dim]`` are unit norm, one_hot ``[examples, classes]``.
    """
    return ((images @ memory.T - 1) * sharpness).exp() @ one_hot
