"""Zero-shot CLIP: the dataset's hand-written template, no training and no communication.

Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", arXiv:2103.00020.
"""

import numpy as np
from torch import Tensor

from promptfleet.methods.prompts import similarity_logits
from promptfleet.methods.protocol import Examples, Images, Message, State, Update, World
from promptfleet.methods.solo import NoCommunication


class ZeroShot(NoCommunication):
    """No state anywhere. It has no learnable prompt, so the keys about one have no effect."""

    def init_client(self, world: World, client: int, rng: np.random.Generator) -> State:
        return {}

    def local_update(
        self, world: World, private: State, download: Message, examples: Examples, rng: np.random.Generator
    ) -> Update:
        return Update(private, Message({}), {})

    def predict(self, world: World, private: State, download: Message, images: Images) -> Tensor:
        return similarity_logits(world, images.features, world.clip.zero_shot_text)
