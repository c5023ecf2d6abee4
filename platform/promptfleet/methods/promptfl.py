"""PromptFL: federated averaging of one prompt.

Source: Guo, Guo, Wang, Xu: "PromptFL: Let Federated Participants Cooperatively Learn Prompts Instead of Models",
arXiv:2208.11625. P_g <- sum_i n_i P_i / sum_i n_i over the cohort, each P_i trained from P_g by cross-entropy.
Differs: what is averaged is the prompt alone, in float32; optimizers are fresh in each local update.
"""

import numpy as np
from pydantic import Field

from promptfleet.config import FederationConfig
from promptfleet.methods.parts.prompt_method import PromptMethod
from promptfleet.methods.parts.prompts import context_shape, context_with_text, init_context
from promptfleet.methods.protocol import Arrived, Call, Message, Spec, State, Task, Update, Work, World


class PromptFLConfig(FederationConfig):
    """A federation that averages prompts."""

    prompt_lr: float = Field(0.003, gt=0, description="learning rate of the prompt (published: 0.002)")


class PromptFL(PromptMethod):
    """One global prompt, also the base of the methods that add something to it.

    Server state: ``context`` [tokens, width] and its ``text`` features [classes, dim]. Clients keep nothing.
    Down and up: ``context``; with class-specific contexts it is [classes, tokens, width].
    """

    Config = PromptFLConfig

    def init_server(self, world: World, rng: np.random.Generator) -> State:
        return context_with_text(world, init_context(world, rng))

    def select(self, server: State, call: Call) -> dict[int, Message]:
        return call.to_all(Message({"context": server["context"]}, {"text": server["text"]}))

    def local_update(self, task: Task) -> Work[Update]:
        trained = yield from self.train_context(task, task.download.tensors["context"])
        return Update(task.private, Message({"context": trained.context}), trained.metrics)

    def uploads(self, world: World) -> dict[str, Spec]:
        return {"context": Spec(context_shape(world))}

    def aggregate(self, server: State, arrived: Arrived) -> State:
        return context_with_text(arrived.world, arrived.mean()["context"])

    def server_model(self, task: Task) -> State:
        """Return an empty state: the global prompt alone."""
        return {}
