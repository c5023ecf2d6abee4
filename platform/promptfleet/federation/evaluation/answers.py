"""Answers of one model: the order and the batches of its images, and the correctness of its predictions."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from promptfleet.devices import from_numpy
from promptfleet.federation.evaluation.calibration import Certainty
from promptfleet.methods.protocol import Examples, HasServerModel, Images, Method, Needs, Task
from promptfleet.seeding import stream


def predictor_of(method: Method, task: Task) -> Callable[[Images], Tensor]:
    """Return a new predictor; its random stream begins at the same place for each set of images and each round."""
    return method.predictor(task.to_predict())


def server_model(method: Method, task: Task) -> Task | None:
    """Return the task to predict with the server's model, None if there is none; ``task`` has a personalized state."""
    return replace(task, private=method.server_model(task)) if isinstance(method, HasServerModel) else None


def batches(method: Method, task: Task, count: int, block: int) -> list[np.ndarray]:
    """Return the positions of ``count`` images in the parts and the order of a predictor.

    They are blocks in the given order. Decoded pixels come in batches; if predictions depend on earlier ones, in
    batches and in an order drawn from the seed, the same after each round.
    """
    order, size = np.arange(count), block
    if method.has_memory:
        order = stream(task.config.seed, "stream", client=task.client).permutation(order)
    if method.has_memory or Needs.PIXELS in method.needs_of(task.config):
        size = task.config.batch_size
    return [order[start : start + size] for start in range(0, count, size)]


def right_answers(predict: Callable[[Images], Tensor], task: Task, examples: Examples) -> Tensor:
    """Return for each example if its label has the highest logit of the task's candidates: bool ``[examples]``."""
    return _candidates(predict(examples.images), task).argmax(dim=1) == examples.labels


def certain_answers(predict: Callable[[Images], Tensor], task: Task, examples: Examples) -> tuple[Tensor, Tensor]:
    """Return the highest probability of each prediction in single precision, and if it is right as ``right_answers``.

    Both are ``[examples]``.
    """
    logits = _candidates(predict(examples.images), task)
    return logits.float().softmax(dim=1).amax(dim=1), logits.argmax(dim=1) == examples.labels


def certainty_of(method: Method, task: Task, examples: Examples) -> Certainty:
    """Return the highest probability of each prediction of a new predictor, and whether it is right.

    The answers are those that ``mean_right`` counts.
    """
    predict, confidence, right = predictor_of(method, task), [], []
    for some in _streamed(method, task, examples):
        logits = _candidates(predict(some.images), task)
        confidence.append(logits.double().softmax(dim=1).amax(dim=1))
        right.append(logits.argmax(dim=1) == some.labels)
    return Certainty(torch.cat(confidence).tolist(), torch.cat(right).tolist())


def mean_right(method: Method, task: Task, examples: Examples) -> float:
    """Return the share of right answers of a new predictor."""
    predict = predictor_of(method, task)
    correct = [right_answers(predict, task, some).sum() for some in _streamed(method, task, examples)]
    return torch.stack(correct).sum().item() / len(examples)


def _streamed(method: Method, task: Task, examples: Examples) -> Iterator[Examples]:
    """Give a client's own examples in the parts and the order of ``batches``."""
    parts = batches(method, task, len(examples), block=len(examples))
    if len(parts) == 1 and not method.has_memory:
        yield examples
        return
    for part in parts:
        yield examples[from_numpy(part, examples.labels.device)]


def _candidates(logits: Tensor, task: Task) -> Tensor:
    return logits if task.candidates is None else logits.masked_fill(~task.candidates, float("-inf"))
