"""Zero-shot CLIP: the dataset's hand-written template, no training and no communication.

Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", arXiv:2103.00020.
"""

from torch import Tensor

from promptfleet.config import FederationConfig
from promptfleet.methods.parts.no_communication import NoCommunication
from promptfleet.methods.protocol import Images, Message, State, Task, Update


class ZeroShot(NoCommunication):
    """Classifier without any state or learnable prompt; the keys about a prompt have no effect."""

    def has_prompt(self, config: FederationConfig) -> bool:
        return False

    def local_update(self, task: Task) -> Update:
        return Update(task.private, Message({}), {})

    def predict(self, task: Task, images: Images) -> Tensor:
        return self.logits(task, images, task.world.clip.zero_shot_text)

    def server_model(self, task: Task) -> State:
        """Return an empty state: every model is CLIP itself."""
        return {}
