"""CoOp, trained by every client alone on its own images.

Source: Zhou, Yang, Loy, Liu, "Learning to Prompt for Vision-Language Models", arXiv:2109.01134; as the local baseline
of pFedMoAP (arXiv:2410.10114). Differs: training is spread over the rounds, with a fresh optimizer in each, so that the
accuracy by round is comparable; every client trains in every round until ``solo_epochs``.
"""

from math import prod

import numpy as np
import torch

from promptfleet.methods.parts.no_communication import Solo, epochs_now
from promptfleet.methods.parts.prompts import context_shape, context_with_text, init_context, no_context_yet
from promptfleet.methods.protocol import Message, State, Task, Update, Work, World


class CoOp(Solo):
    """One prompt per client, all from one start.

    Server state: ``context``, the start, and its ``text`` features; it follows from the seed, so it is attached to
    downloads and counts no bytes. Private state: ``context``, its ``text``, ``participations``, ``epochs``.
    """

    def init_server(self, world: World, rng: np.random.Generator) -> State:
        return context_with_text(world, init_context(world, rng))

    def init_client(self, world: World, client: int, rng: np.random.Generator) -> State:
        return {**no_context_yet(world), "epochs": torch.tensor(0)}

    def local_update(self, task: Task) -> Work[Update]:
        private, epochs = task.private, epochs_now(task)
        start = private["context"] if private["participations"] > 0 else task.download.attached["context"]
        trained = yield from self.train_context(task, start, epochs=epochs)
        next_private = {**trained.kept(private), "epochs": private["epochs"] + epochs}
        return Update(next_private, Message({}), trained.metrics)

    def trained_parameters(self, world: World) -> int:
        return prod(context_shape(world))
