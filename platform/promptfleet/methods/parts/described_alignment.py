"""Alignment of several prompts with several descriptions of each class, by optimal transport."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from promptfleet.devices import from_numpy
from promptfleet.methods.parts.optimal_transport import transport_plans


@dataclass(frozen=True)
class Alignment:
    """Descriptions of classes, those with the same number of them together: a plan has no empty column.

    ``groups`` are rows of text features ``[rows]`` and their descriptions ``[rows, number, dim]``. ``epsilon`` is the
    entropy regularization of the plans; None: all pairs count the same.
    """

    groups: tuple[tuple[Tensor, Tensor], ...]
    epsilon: float | None
    iterations: int

    @classmethod
    def of(
        cls,
        descriptions: Tensor,
        counts: Sequence[int],
        text_classes: Tensor | None,
        *,
        epsilon: float | None,
        iterations: int,
    ) -> "Alignment":
        """Group ``descriptions [texts, dim]``, unit norm, of which the classes have ``counts``, class by class.

        text_classes: the class of each row of text features; None: a row per class.
        """
        ends = list(accumulate(counts))
        classes = range(len(counts)) if text_classes is None else text_classes.tolist()
        groups = []
        for count in sorted(set(counts)):
            rows = [row for row, label in enumerate(classes) if counts[label] == count]
            places = [list(range(ends[classes[row]] - count, ends[classes[row]])) for row in rows]
            at, of_rows = (from_numpy(np.array(index), descriptions.device) for index in (places, rows))
            groups.append((of_rows, descriptions[at]))
        return cls(tuple(groups), epsilon, iterations)

    def loss(self, text: Tensor) -> Tensor:
        """Return the mean over classes of 1 - sum(plan * cosine), for ``text [prompts, classes, dim]`` of unit norm.

        Between 0 and 2. No gradient flows through the plans, which give each prompt and each description the same.
        """
        reached = []
        for rows, described in self.groups:
            similarity = torch.einsum("ncd,cjd->ncj", text[:, rows], described)
            if self.epsilon is None:
                reached.append(similarity.mean(dim=(0, 2)))
            else:
                plans, _ = transport_plans(
                    similarity.unsqueeze(0), mass=1.0, epsilon=self.epsilon, iterations=self.iterations
                )
                reached.append((plans[0] * similarity).sum(dim=(0, 2)))
        return 1 - torch.cat(reached).mean()
