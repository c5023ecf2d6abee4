"""Verbalizers: from the scores of words to those of classes.

Source: Ding et al., "OpenPrompt: An Open-source Framework for Prompt-learning", arXiv:2111.01998, its manual and
knowledgeable verbalizers and their calibration. ``text_classes [words]`` is the class of each word.
"""

from math import log

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST_PRIOR = 1e-6


def memberships(text_classes: Tensor, classes: int) -> Tensor:
    """Return ``[words, classes]``, 1 for the class of each word."""
    labels = torch.arange(classes, device=text_classes.device)
    return (text_classes.unsqueeze(1) == labels).float()


def verbalized(scores: Tensor, of_class: Tensor, omega: Tensor | None = None) -> Tensor:
    """Return sum_j w_cj log p_cj ``[images, classes]``.

    p is the softmax of ``scores [images, words]`` over all words, w that of ``omega [words]`` among the words of a
    class, or the mean if it is None. ``of_class``: see ``memberships``.
    """
    raw = torch.ones_like(of_class[:, 0]) if omega is None else (omega - omega.max()).exp()
    weighted = of_class * raw.unsqueeze(1)
    return F.log_softmax(scores, dim=-1) @ (weighted / weighted.sum(dim=0))


def calibrated(scores: Tensor, neutral: Tensor) -> Tensor:
    """Return the logits ``[images, words]`` of p / p0, where p0 is the softmax of ``neutral [1, words]``."""
    return scores - F.log_softmax(neutral, dim=-1).clamp(min=log(SMALLEST_PRIOR))
