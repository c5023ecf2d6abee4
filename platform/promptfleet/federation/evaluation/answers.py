"""Answers of one model: the order and the batches of its images, and the correctness of its predictions."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from promptfleet.devices import from_numpy
from promptfleet.methods.protocol import Examples, Images, Method, Needs, Task
from promptfleet.seeding import stream


def predictor_of(method: Method, task: Task) -> Callable[[Images], Tensor]:
    """Return a new predictor; its random stream begins at the same place for each set of images and each round."""
    return method.predictor(to_predict(task))


def to_predict(task: Task) -> Task:
    """Give a task the random stream of predictions."""
    return replace(task, rng=stream(task.config.seed, "predict", client=task.client))


def batches(method: Method, task: Task, count: int, block: int) -> list[np.ndarray]:
    """Return the positions of ``count`` images in the parts and the order of a predictor.

    They are blocks in the given order. Decoded pixels come in batches; if predictions depend on earlier ones, in
    batches and in an order drawn from the seed, the same after each round.
    """
    order, size = np.arange(count), block
    if method.has_memory:
        order = stream(task.config.seed, "stream", client=task.client).permutation(order)
    if method.has_memory or method.needs is Needs.PIXELS:
        size = task.config.batch_size
    return [order[start : start + size] for start in range(0, count, size)]


def right_answers(predict: Callable[[Images], Tensor], task: Task, examples: Examples) -> Tensor:
    """Return for each example if its label has the highest logit of the task's candidates: bool ``[examples]``."""
    logits = predict(examples.images)
    if task.candidates is not None:
        logits = logits.masked_fill(~task.candidates, float("-inf"))
    return logits.argmax(dim=1) == examples.labels


def mean_right(method: Method, task: Task, examples: Examples) -> float:
    """Return the share of right answers of a new predictor."""
    predict, count = predictor_of(method, task), len(examples)
    parts = batches(method, task, count, block=count)
    device = examples.labels.device
    is_whole = len(parts) == 1 and not method.has_memory
    chosen = [examples] if is_whole else (examples[from_numpy(part, device)] for part in parts)
    correct = [right_answers(predict, task, some).sum() for some in chosen]
    return torch.stack(correct).sum().item() / count
