"""Noise of sampled prompts that images share or have of their own, and how many of the latter are encoded together.

The task's configuration says by ``conditional`` that each image has its own.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from promptfleet.methods.parts.sampled_prompts import standard_normal
from promptfleet.methods.protocol import Task

_AT_ONCE = 16  # prompts of a client's images that go through the text tower together, if images have their own


def together(task: Task, images: int, samples: int) -> tuple[Tensor, ...]:
    """Return the places of images whose prompts are encoded together: all, if they share their prompts."""
    size = max(1, _AT_ONCE // samples) if task.config.conditional else images
    return torch.arange(images, device=task.world.device).split(size)


def noise_of(task: Task, *size: int) -> Tensor:
    """Draw standard normal noise ``[*size, width]``."""
    return standard_normal(task, (*size, task.world.clip.tower.width))


def noise_of_parts(task: Task) -> Iterator[Tensor]:
    """Yield the noise ``[samples, 1 or images, width]`` of each part of a batch.

    Noise that images share is drawn at the first step, so that no step has to copy it to a device.
    """
    config, batches = task.config, _sizes(len(task.train), task.config.batch_size) * task.config.local_epochs
    if not config.conditional:
        yield from noise_of(task, len(batches), config.train_samples, 1)
        return
    for batch in batches:
        for part in together(task, batch, config.train_samples):
            yield noise_of(task, config.train_samples, len(part))


def _sizes(count: int, most: int) -> list[int]:
    """Return the sizes of batches of ``count`` examples."""
    return [min(most, count - start) for start in range(0, count, most)]
