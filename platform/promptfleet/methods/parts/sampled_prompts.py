"""Predictions with samples of a distribution over prompts, whose probabilities are averaged."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from math import log

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from promptfleet.devices import from_numpy
from promptfleet.methods.parts.prompt_method import PromptMethod
from promptfleet.methods.parts.prompts import encode_contexts
from promptfleet.methods.protocol import Images, Task


class SampledPrompts(PromptMethod):
    """Base of methods that predict with the mean probabilities of sampled prompts."""

    @abstractmethod
    def contexts_to_predict(self, task: Task) -> Tensor:
        """Sample the contexts ``[samples, (classes,) tokens, width]`` that predict, with noise from ``task.rng``."""

    def predictor(self, task: Task) -> Callable[[Images], Tensor]:
        """Sample the prompts once for all images; the logits are logarithms of the mean probabilities."""
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
