"""Predictions with samples of a distribution over prompts, whose probabilities are averaged."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import log

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from promptfleet.devices import from_numpy
from promptfleet.methods.parts.prompt_method import PromptMethod
from promptfleet.methods.parts.prompts import encode_contexts
from promptfleet.methods.protocol import Encode, Images, State, Task, Work, World

SAMPLES = "samples"  # name of the sampled prompts' text features in a state to predict with


class SampledPrompts(PromptMethod):
    """Base of methods that predict with the mean probabilities of sampled prompts."""

    draws_to_predict = True

    @abstractmethod
    def contexts_to_predict(self, task: Task) -> Tensor:
        """Sample the contexts ``[samples, (classes,) tokens, width]`` that predict, with noise from ``task.rng``."""

    def with_samples(self, task: Task) -> Work[State]:
        """Return the private state with ``samples [samples, classes, dim]``, the text features of prompts to predict.

        They are encoded once for all evaluation sets.
        """
        return {**task.private, SAMPLES: (yield Encode(self.contexts_to_predict(task.to_predict())))}

    def personalize(self, task: Task) -> Work[State]:
        return (yield from self.with_samples(task))

    def reworded(self, task: Task, world: World) -> Work[Task]:
        """Return the task to predict the classes of ``world`` with: the same samples, encoded with their names."""
        task = replace(task, world=world)
        return replace(task, private=(yield from self.with_samples(task)))

    def predictor(self, task: Task) -> Callable[[Images], Tensor]:
        """Predict with the ``samples``, drawn here if there are none; logits are logarithms of mean probabilities."""
        text = task.private.get(SAMPLES)
        if text is None:
            with torch.no_grad():
                text = encode_contexts(task.world, self.contexts_to_predict(task))
        return lambda images: self.log_mean(task, images, text)

    def predict(self, task: Task, images: Images) -> Tensor:
        return self.predictor(task)(images)

    def log_mean(self, task: Task, images: Images, text: Tensor) -> Tensor:
        """Return the logarithm of the mean probabilities ``[images, classes]``.

        ``text`` is ``[samples, classes, dim]`` or, where each image has its own prompts, ``[samples, images, ...]``.
        """
        if text.dim() == 4:
            of_each = zip(torch.arange(len(images), device=text.device).split(1), text.unbind(1), strict=True)
            return torch.cat([self.log_mean(task, images[place], one) for place, one in of_each])
        features = self.features(task, images)
        each = torch.stack([F.log_softmax(self.scores(task, features, one), dim=-1) for one in text])
        return each.logsumexp(dim=0) - log(len(text))


def standard_normal(task: Task, shape: Sequence[int]) -> Tensor:
    """Draw noise from ``task.rng``; all of it is copied to the device at once."""
    return from_numpy(task.rng.standard_normal(shape, dtype=np.float32), task.world.device)
