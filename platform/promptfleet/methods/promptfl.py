"""PromptFL: federated averaging of one prompt.

Source: Guo, Guo, Wang, Xu: "PromptFL: Let Federated Participants Cooperatively Learn Prompts Instead of Models",
arXiv:2208.11625. P_g <- sum_i n_i P_i / sum_i n_i over the cohort, each P_i trained from P_g by cross-entropy.
Differs: what is averaged is the prompt alone, in float32; optimizers are fresh in each local update.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import Field
from torch import Tensor

from promptfleet.config import FederationConfig
from promptfleet.methods.averaging import average_uploads
from promptfleet.methods.prompts import (
    context_shape,
    context_with_text,
    init_context,
    similarity_logits,
)
from promptfleet.methods.protocol import Examples, Images, LocalUpdate, Message, Method, State, Update, World
from promptfleet.methods.training import ContextLoss, train_context


class PromptFLConfig(FederationConfig):
    """A federation that averages prompts."""

    prompt_lr: float = Field(0.003, gt=0, description="learning rate of the prompt (published: 0.002)")


class PromptFL(Method):
    """One global prompt, also the base of the methods that add something to it.

    Server state: ``context`` [tokens, width] and its ``text`` features [classes, dim]. Clients keep nothing.
    Down and up: ``context``; with class-specific contexts it is [classes, tokens, width].
    """

    Config = PromptFLConfig

    def init_server(self, world: World, rng: np.random.Generator) -> State:
        return context_with_text(world, init_context(world, rng))

    def init_client(self, world: World, client: int, rng: np.random.Generator) -> State:
        return {}

    def select(
        self, world: World, server: State, cohort: Sequence[int], rng: np.random.Generator
    ) -> dict[int, Message]:
        download = Message(tensors={"context": server["context"]}, attached={"text": server["text"]})
        return dict.fromkeys(cohort, download)

    def loss(self, world: World, download: Message) -> ContextLoss | None:
        """What a local update minimizes; None is the cross-entropy."""
        return None

    def local_update(
        self, world: World, private: State, download: Message, examples: Examples, rng: np.random.Generator
    ) -> LocalUpdate:
        trained = yield from train_context(
            world, download.tensors["context"], examples, rng, loss=self.loss(world, download)
        )
        return Update(private, Message({"context": trained.context}), trained.metrics)

    def upload_shapes(self, world: World) -> dict[str, tuple[int, ...]]:
        return {"context": context_shape(world)}

    def aggregate(
        self,
        world: World,
        server: State,
        uploads: Mapping[int, Message],
        num_examples: Mapping[int, int],
        rng: np.random.Generator,
    ) -> State:
        return context_with_text(world, average_uploads(world, uploads, num_examples)["context"])

    def predict(self, world: World, private: State, download: Message, images: Images) -> Tensor:
        return similarity_logits(world, images.features, download.attached["text"])
