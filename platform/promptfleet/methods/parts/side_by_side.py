"""Work of several clients side by side, their prompts through the text tower in one batch."""

from collections import defaultdict
from collections.abc import Generator, Iterable, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from promptfleet.errors import MethodError
from promptfleet.methods.parts.prompts import encode_contexts
from promptfleet.methods.protocol import (
    Answer,
    Backward,
    Encode,
    Gradients,
    Request,
    ResultT,
    Task,
    Update,
    Work,
    World,
)

SIDE_BY_SIDE = 16  # generators at a time: more would hold more memory, and are no faster
RESULTS = {"init_server": dict, "local_update": Update, "aggregate": dict, "personalize": dict, "reworded": Task}


def run_together(
    world: World, works: Iterable[ResultT | Work[ResultT]], function: str = "local_update"
) -> list[ResultT]:
    """Run the works of a method's ``function`` to completion, batching simultaneous requests.

    Each work keeps its own parameters, loss and optimizers. A single one runs like its own loop. It is taken from
    ``works`` when its turn comes, so its memory is not needed before.

    Raises:
        MethodError: one is neither a result nor a generator that returns one, or yields anything else.
    """
    todo, done = iter(works), []
    while group := list(islice(todo, SIDE_BY_SIDE)):
        done += _run_group(world, group, function)
    return done


def run_alone(world: World, work: ResultT | Work[ResultT], function: str = "local_update") -> ResultT:
    """Run one work to its result, as ``run_together`` does."""
    return run_together(world, [work], function)[0]


def _run_group(world: World, works: Sequence[ResultT | Work[ResultT]], function: str) -> list[ResultT]:
    result = RESULTS[function]
    done = {index: work for index, work in enumerate(works) if isinstance(work, result)}
    waiting = {index: _advance(world, work, None, function) for index, work in enumerate(works) if index not in done}
    while waiting:
        answers = _answer(world, {index: asked for index, asked in waiting.items() if not isinstance(asked, result)})
        done |= {index: asked for index, asked in waiting.items() if index not in answers}
        waiting = {index: _advance(world, works[index], answer, function) for index, answer in answers.items()}
    return [done[index] for index in range(len(works))]


def _advance(world: World, work: Work[ResultT], answer: Answer, function: str) -> Request | ResultT:
    """Return the next request of the work, or its result."""
    if not isinstance(work, Generator):
        raise _unexpected(world, function, "returned", work)
    try:
        asked = work.send(answer)
    except StopIteration as end:
        if not isinstance(end.value, RESULTS[function]):
            raise _unexpected(world, function, "came to", end.value) from None
        return end.value
    if not isinstance(asked, Request):
        raise _unexpected(world, function, "asked for", asked)
    return asked


def _unexpected(world: World, function: str, did: str, value: Any) -> MethodError:
    result = {Update: "an Update", Task: "a Task", dict: "a state"}[RESULTS[function]]
    return MethodError(
        f"method {world.config.method}: {function} {did} {_named(value)}, should be a generator that yields Encode and "
        f"Backward and returns {result}, or return one itself"
    )


def _named(value: Any) -> str:
    """Return the kind of a value, since tensors are long."""
    return "None" if value is None else f"a {type(value).__name__}"


def _answer(world: World, asked: dict[int, Request]) -> dict[int, Answer]:
    gradients = _gradients(asked)  # before a pass that forgets what they need
    losses = {index: request.loss for index, request in asked.items() if isinstance(request, Backward)}
    if losses:
        torch.autograd.backward(list(losses.values()))
    alike = defaultdict(list)
    for index, request in asked.items():
        if isinstance(request, Encode):
            alike[request.texts, request.contexts.shape, request.contexts.requires_grad].append(index)
    answers: dict[int, Answer] = gradients | dict.fromkeys(losses)
    for (texts, *_), indices in alike.items():
        contexts = [asked[index].contexts for index in indices]
        features = encode_contexts(world, torch.cat(contexts), texts)
        parts = features.split([len(one) for one in contexts])
        if not features.requires_grad:
            parts = [part.clone() for part in parts]  # a kept part of one must not keep all of them in memory
        answers |= dict(zip(indices, parts, strict=True))
    return answers


def _gradients(asked: dict[int, Request]) -> dict[int, tuple[Tensor, ...]]:
    """Return the gradients of each loss, all of them from one pass: no loss depends on the tensors of another."""
    wanted = {index: request for index, request in asked.items() if isinstance(request, Gradients)}
    if not wanted:
        return {}
    tensors = [tensor for request in wanted.values() for tensor in request.of]
    found = iter(torch.autograd.grad([request.loss for request in wanted.values()], tensors, create_graph=True))
    return {index: tuple(islice(found, len(request.of))) for index, request in wanted.items()}
