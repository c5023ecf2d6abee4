"""Evaluation of several clients' models on the same samples, a block of them at a time.

A block is read once for all models, and predicted once by models that are the same. Of a model's answers their
correctness is kept, and where calibration is measured their confidence in bins, whose size does not depend on the
samples.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from promptfleet.data.partition import Partition
from promptfleet.federation.evaluation.answers import (
    batches,
    certain_answers,
    predictor_of,
    right_answers,
    server_model,
)
from promptfleet.federation.evaluation.calibration import Tally
from promptfleet.federation.evaluation.foreign_sets import ForeignSet
from promptfleet.federation.evaluation.same_models import first_with_same_model
from promptfleet.federation.evaluation.schedule import Plan
from promptfleet.federation.evaluation.scores import (
    BASE,
    CALIBRATION,
    GLOBAL,
    NEW,
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


@dataclass(frozen=True)
class Found:
    """Scores of one model by evaluation set, and tallies of its predictions on the sets with calibration."""

    scores: dict[str, Score] = field(default_factory=dict)
    tallies: dict[str, Tally] = field(default_factory=dict)


@dataclass(frozen=True)
class Answers:
    """Correctness of one model's predictions, bool ``[samples]``, and their tally if calibration is measured."""

    right: np.ndarray
    tally: Tally | None


class SharedSets:
    """Shared samples, which ``read`` returns by their indices, and foreign sets, each with its own such function."""

    def __init__(self, method: Method, parts: SharedParts, read: Read, foreign: Sequence[tuple[ForeignSet, Read]] = ()):
        self._method, self._parts, self._read, self._foreign = method, parts, read, foreign

    def evaluate(self, models: Sequence[Model], plan: Plan) -> list[Found]:
        """Return each model's scores and tallies on the sets of ``plan`` that have shared samples."""
        everything = [Found() for _ in models]
        tasks = [model.task for model in models]
        for part, indices in ((VAL, self._parts.val), (TEST, self._parts.test)):
            if {GLOBAL, OTHERS, BASE} & {*plan.sets}:
                tallied = {BASE, CALIBRATION} <= {*plan.sets} and part == TEST
                answers = self._answers(tasks, indices, tallied=tallied)
                for model, mine, found in zip(models, answers, everything, strict=True):
                    found.scores.update(_client_scores(part, mine.right, ~np.isin(indices, model.own[part]), plan))
                    if mine.tally:
                        found.tallies[set_name(TEST, BASE)] = mine.tally
            for model, found in zip(models, everything, strict=True):
                if SERVER in plan.sets and (server := self._server_model(model.task, plan)):
                    found.scores[set_name(part, SERVER)] = self._score(server, indices)
        if UNSEEN_DOMAIN in plan.sets:
            self._add_unseen_domain(models, plan, everything)
        for foreign, read in self._foreign:
            if foreign.name in plan.sets:
                tallied = foreign.name == NEW and CALIBRATION in plan.sets
                answers = self._answers_on_foreign(tasks, foreign, read, tallied=tallied)
                for mine, found in zip(answers, everything, strict=True):
                    found.scores[set_name(TEST, foreign.name)] = _score(mine.right)
                    if mine.tally:
                        found.tallies[set_name(TEST, foreign.name)] = mine.tally
        return everything

    def _add_unseen_domain(self, models: Sequence[Model], plan: Plan, everything: Sequence[Found]) -> None:
        """Add the scores of each model, and of the server's, on the held-out domain."""
        indices = self._parts.unseen_domain
        answers = self._answers([model.task for model in models], indices)
        for model, mine, found in zip(models, answers, everything, strict=True):
            found.scores[set_name(TEST, UNSEEN_DOMAIN)] = _score(mine.right)
            if server := self._server_model(model.task, plan):
                found.scores[set_name(TEST, UNSEEN_DOMAIN_SERVER)] = self._score(server, indices)

    def _answers_on_foreign(
        self, tasks: Sequence[Task], foreign: ForeignSet, read: Read, *, tallied: bool
    ) -> list[Answers]:
        """Return the answers of each task's prompts on foreign samples, with the names of their classes."""
        works = [self._method.reworded(task, foreign.world) for task in tasks]
        with torch.inference_mode():
            reworded = run_together(foreign.world, works, "reworded")

        def from_zero(indices: np.ndarray) -> Examples:
            examples = read(indices)
            return replace(examples, labels=examples.labels - foreign.first_label)

        return self._answers(reworded, foreign.indices, from_zero, tallied=tallied)

    def _server_model(self, task: Task, plan: Plan) -> Task | None:
        """Return the server's model, if there is one and this client measures it."""
        return server_model(self._method, task) if task.client == plan.server_by else None

    def _score(self, task: Task, indices: np.ndarray) -> Score:
        """Return the score of one task on shared samples."""
        (answers,) = self._answers([task], indices)
        return _score(answers.right)

    def _answers(
        self, tasks: Sequence[Task], indices: np.ndarray, read: Read | None = None, *, tallied: bool = False
    ) -> list[Answers]:
        """Return each task's answers on samples, by default shared ones, with tallies if they are ``tallied``."""
        places = first_with_same_model(self._method, tasks)
        different = sorted({*places})
        answers = self._answers_of_each([tasks[place] for place in different], indices, read, tallied=tallied)
        by_place = dict(zip(different, answers, strict=True))
        return [by_place[place] for place in places]

    def _answers_of_each(
        self, tasks: Sequence[Task], indices: np.ndarray, read: Read | None, *, tallied: bool
    ) -> list[Answers]:
        """Return the same for tasks whose models differ."""
        read = read or self._read
        method, right = self._method, np.empty((len(tasks), len(indices)), dtype=bool)
        tallies = [Tally.empty() if tallied else None for _ in tasks]
        predictors = [predictor_of(method, task) for task in tasks]
        parts = zip(*(batches(method, task, len(indices), BLOCK) for task in tasks), strict=True)
        with torch.inference_mode():
            for of_tasks in parts:
                examples = None
                for row, (task, predict, part) in enumerate(zip(tasks, predictors, of_tasks, strict=True)):
                    if examples is None or method.has_memory:  # otherwise the parts of all tasks are the same
                        examples = read(indices[part])
                    if tallied:
                        confidence, mine = (one.cpu().numpy() for one in certain_answers(predict, task, examples))
                        tallies[row] += Tally.of(confidence, mine)
                    else:
                        mine = right_answers(predict, task, examples).cpu().numpy()
                    right[row, part] = mine
        return [Answers(mine, tally) for mine, tally in zip(right, tallies, strict=True)]


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
