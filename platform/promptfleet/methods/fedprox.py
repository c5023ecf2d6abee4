"""PromptFL + FedProx: a local prompt is held near the global one.

Source: Li et al., "Federated Optimization in Heterogeneous Networks", arXiv:1812.06127: CE + mu/2 ||P - P_g||^2.
Differs from pFedMoAP's published code and three related repositories: there the penalty is made of detached tensors and
has no gradient.
"""

from pydantic import Field
from torch import Tensor

from promptfleet.methods.promptfl import PromptFL, PromptFLConfig
from promptfleet.methods.protocol import Examples, Task


class FedProxConfig(PromptFLConfig):
    """Configuration of FedProx on the prompt."""

    mu: float = Field(0.5, ge=0, description="weight of the proximal term (published: 0.5); stable below 2 / prompt_lr")


class FedProx(PromptFL):
    """PromptFL with a proximal term in the local loss; states and messages are PromptFL's."""

    Config = FedProxConfig

    def loss(self, task: Task, context: Tensor, text: Tensor, batch: Examples) -> Tensor:
        away = context - task.download.tensors["context"]
        return super().loss(task, context, text, batch) + task.config.mu / 2 * away.square().sum()
