"""Evaluation of several clients' models on the same samples, a block of them at a time.

A block is read once for all models, and only the correctness of a model's answers is kept.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from promptfleet.data.partition import Partition
from promptfleet.federation.evaluation.answers import batches, predictor_of, right_answers, server_model
from promptfleet.federation.evaluation.foreign_sets import ForeignSet
from promptfleet.federation.evaluation.schedule import Plan
from promptfleet.federation.evaluation.scores import (
    BASE,
    GLOBAL,
    OTHERS,
    SERVER,
    TEST,
    UNSEEN_DOMAIN,
    UNSEEN_DOMAIN_SERVER,
    VAL,
    Score,
    set_name,
)
from promptfleet.methods.parts.side_by_side import run_together
from promptfleet.methods.protocol import Examples, Method, Task

BLOCK = 1024  # samples that a model gets at once
Read = Callable[[np.ndarray], Examples]


@dataclass(frozen=True)
class SharedParts:
    """Sample indices of the validation and test parts of all clients that may train, in the order of their ids.

    ``unseen_domain`` are all samples of the held-out domain.
    """

    val: np.ndarray
    test: np.ndarray
    unseen_domain: np.ndarray

    @classmethod
    def of(cls, partition: Partition) -> "SharedParts":
        val, test = (np.concatenate([getattr(split, part) for split in partition.seen()]) for part in (VAL, TEST))
        return cls(val, test, partition.unseen_domain)


@dataclass(frozen=True)
class Model:
    """A client's model: its task, whose private state is personalized, and by part its own sample indices."""

    task: Task
    own: Mapping[str, np.ndarray]


class SharedSets:
    """Shared samples, which ``read`` returns by their indices, and foreign sets, each with its own such function."""

    def __init__(self, method: Method, parts: SharedParts, read: Read, foreign: Sequence[tuple[ForeignSet, Read]] = ()):
        self._method, self._parts, self._read, self._foreign = method, parts, read, foreign

    def scores(self, models: Sequence[Model], plan: Plan) -> list[dict[str, Score]]:
        """Return each model's scores on the sets of ``plan`` that have shared samples."""
        scores: list[dict[str, Score]] = [{} for _ in models]
        for part, indices in ((VAL, self._parts.val), (TEST, self._parts.test)):
            if {GLOBAL, OTHERS, BASE} & {*plan.sets}:
                right = self._right([model.task for model in models], indices)
                for model, mine, found in zip(models, right, scores, strict=True):
                    found |= _client_scores(part, mine, ~np.isin(indices, model.own[part]), plan)
            for model, found in zip(models, scores, strict=True):
                if SERVER in plan.sets and (server := self._server_model(model.task, plan)):
                    found[set_name(part, SERVER)] = _score(self._right([server], indices)[0])
        if UNSEEN_DOMAIN in plan.sets:
            self._add_unseen_domain(models, plan, scores)
        for foreign, read in self._foreign:
            if foreign.name in plan.sets:
                right = self._right_on_foreign([model.task for model in models], foreign, read)
                for mine, found in zip(right, scores, strict=True):
                    found[set_name(TEST, foreign.name)] = _score(mine)
        return scores

    def _add_unseen_domain(self, models: Sequence[Model], plan: Plan, scores: Sequence[dict[str, Score]]) -> None:
        """Add the scores of each model, and of the server's, on the held-out domain."""
        indices = self._parts.unseen_domain
        right = self._right([model.task for model in models], indices)
        for model, mine, found in zip(models, right, scores, strict=True):
            found[set_name(TEST, UNSEEN_DOMAIN)] = _score(mine)
            if server := self._server_model(model.task, plan):
                found[set_name(TEST, UNSEEN_DOMAIN_SERVER)] = _score(self._right([server], indices)[0])

    def _right_on_foreign(self, tasks: Sequence[Task], foreign: ForeignSet, read: Read) -> np.ndarray:
        """Return which foreign samples each task's prompts predict right, with the names of their classes."""
        works = [self._method.reworded(task, foreign.world) for task in tasks]
        with torch.inference_mode():
            reworded = run_together(foreign.world, works, "reworded")

        def from_zero(indices: np.ndarray) -> Examples:
            examples = read(indices)
            return replace(examples, labels=examples.labels - foreign.first_label)

        return self._right(reworded, foreign.indices, from_zero)

    def _server_model(self, task: Task, plan: Plan) -> Task | None:
        """Return the server's model, if there is one and this client measures it."""
        return server_model(self._method, task) if task.client == plan.server_by else None

    def _right(self, tasks: Sequence[Task], indices: np.ndarray, read: Read | None = None) -> np.ndarray:
        """Return which samples each task predicts right: bool ``[tasks, samples]``; by default they are shared ones."""
        read = read or self._read
        method, right = self._method, np.empty((len(tasks), len(indices)), dtype=bool)
        predictors = [predictor_of(method, task) for task in tasks]
        parts = zip(*(batches(method, task, len(indices), BLOCK) for task in tasks), strict=True)
        with torch.inference_mode():
            for of_tasks in parts:
                examples = None
                for row, (task, predict, part) in enumerate(zip(tasks, predictors, of_tasks, strict=True)):
                    if examples is None or method.has_memory:  # otherwise the parts of all tasks are the same
                        examples = read(indices[part])
                    right[row, part] = right_answers(predict, task, examples).cpu().numpy()
        return right


def _client_scores(part: str, right: np.ndarray, foreign: np.ndarray, plan: Plan) -> Mapping[str, Score]:
    """Return scores on all samples, and on the ``foreign`` ones, of which a single client has none."""
    scores = {}
    if GLOBAL in plan.sets:
        scores[set_name(part, GLOBAL)] = _score(right)
    if BASE in plan.sets and part == TEST:
        scores[set_name(part, BASE)] = _score(right)
    if OTHERS in plan.sets and foreign.any():
        scores[set_name(part, OTHERS)] = _score(right[foreign])
    return scores


def _score(right: np.ndarray) -> Score:
    return Score(int(right.sum()) / len(right), len(right))
