"""PromptFL + fine-tuning: before it predicts, each client trains the global prompt a little more on its own images.

Source: Cheng, Chadha, Duchi, "Federated Asymptotics: A Model for Comparing Federated Learning Algorithms",
arXiv:2108.07313. Only the prompt moves, always from the global one, and the fine-tuned copy is never uploaded.
"""

from pydantic import Field

from promptfleet.config import FederationConfig
from promptfleet.methods.promptfl import PromptFL
from promptfleet.methods.protocol import State, Task, Work


class PromptFLFineTunedConfig(FederationConfig):
    """Configuration of PromptFL with local fine-tuning."""

    finetune_epochs: int = Field(5, ge=0, description="local epochs of fine-tuning before each evaluation")


class PromptFLFineTuned(PromptFL):
    """PromptFL up to the evaluation."""

    Config = PromptFLFineTunedConfig

    def personalize(self, task: Task) -> Work[State]:
        start, epochs = task.download.tensors["context"], task.config.finetune_epochs
        tuned = yield from self.train_context(task, start, epochs=epochs)
        return {"context": tuned.context, "text": tuned.text}
