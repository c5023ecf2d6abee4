"""Multimodal prototypes, which a predictor makes from the images that it is sure of.

Source: Zeng, Yue, Wang (arXiv:2404.01232), eval.py of huiminzeng/Fed-MP. The prototype of class q is its text feature
and, once each class has an image, plus the mean of the image features that were predicted as q with an entropy below
u ln C. A batch is predicted with the prototypes of the batches before it.
"""

from collections.abc import Callable
from math import log

import torch
from torch import Tensor


class Prototypes:
    """Prototypes of a stream of images.

    ``text [classes, dim]``, unit norm; ``candidates [classes]`` are the classes in question, None for all; ``level`` is
    u, in 0..1.
    """

    def __init__(self, text: Tensor, candidates: Tensor | None, level: float):
        self._text = text
        classes = torch.arange(len(text), device=text.device)
        self._query = classes if candidates is None else classes[candidates]
        self._threshold = level * log(len(self._query))
        self.visual = torch.zeros_like(text)  # mean features of the images taken, [classes, dim]
        self.counts = torch.zeros(len(text), dtype=torch.int64, device=text.device)

    def logits_of(self, features: Tensor, scores: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Return the logits ``[images, classes]`` of ``features [images, dim]``, then learn from the sure ones."""
        seen = bool((self.counts[self._query] > 0).all())
        logits = scores(features, self._text + self.visual if seen else self._text)
        self._learn(features, logits[:, self._query])
        return logits

    def _learn(self, features: Tensor, logits: Tensor) -> None:
        """Take the images whose ``logits [images, query classes]`` have little entropy."""
        log_shares = logits.log_softmax(dim=1)
        sure = -(log_shares.exp() * log_shares).sum(dim=1) < self._threshold
        classes, taken = self._query[logits[sure].argmax(dim=1)], features[sure]
        counts = self.counts + torch.bincount(classes, minlength=len(self.counts))
        sums = (self.visual * self.counts.unsqueeze(1)).index_add(0, classes, taken)
        self.visual, self.counts = sums / counts.clamp(min=1).unsqueeze(1), counts
