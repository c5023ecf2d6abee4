"""Local updates run side by side, their prompts through the text tower in one batch."""

from collections import defaultdict
from collections.abc import Generator, Iterable, Sequence
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor

from promptfleet.errors import MethodError
from promptfleet.methods.prompts import encode_contexts
from promptfleet.methods.protocol import Backward, Encode, LocalUpdate, Update, World

ResultT = TypeVar("ResultT")
SIDE_BY_SIDE = 16  # updates at a time: more would hold more memory, and are no faster


def run_updates(world: World, updates: Iterable[Update | LocalUpdate]) -> list[Update]:
    """Drive local updates to their ends; what several of them ask for at the same time is answered in one go.

    Each keeps its own parameters, loss and optimizers. Alone, an update is driven as a loop of its own would be. An
    update is taken from ``updates`` when its turn comes, so that what it holds is not in memory before.

    Raises:
        MethodError: one of them is neither an ``Update`` nor a generator that comes to one, or asks for anything else.
    """
    todo, done = iter(updates), []
    while group := list(islice(todo, SIDE_BY_SIDE)):
        done += _run_group(world, group)
    return done


def _run_group(world: World, updates: Sequence[Update | LocalUpdate]) -> list[Update]:
    done = {index: update for index, update in enumerate(updates) if isinstance(update, Update)}
    waiting = {index: _advance(world, update, None) for index, update in enumerate(updates) if index not in done}
    while waiting:
        answers = _answer(world, {index: asked for index, asked in waiting.items() if not isinstance(asked, Update)})
        done |= {index: asked for index, asked in waiting.items() if index not in answers}
        waiting = {index: _advance(world, updates[index], answer) for index, answer in answers.items()}
    return [done[index] for index in range(len(updates))]


def run_alone(world: World, steps: Generator[Encode | Backward, Tensor | None, ResultT]) -> ResultT:
    """Drive one generator that asks as a local update does, for example in ``personalize``; returns what it returns."""
    answer = None
    if not isinstance(steps, Generator):
        raise MethodError(f"method {world.config.method}: {_named(steps)} was to be driven, should be a generator")
    while True:
        try:
            asked = steps.send(answer)
        except StopIteration as end:
            return end.value
        answer = _answer(world, {0: asked})[0]


def _advance(world: World, update: LocalUpdate, answer: Tensor | None) -> Encode | Backward | Update:
    """What the update asks for next, or what it came to."""
    if not isinstance(update, Generator):
        raise _unexpected(world, "local_update returned", update)
    try:
        asked = update.send(answer)
    except StopIteration as end:
        if not isinstance(end.value, Update):
            raise _unexpected(world, "local_update came to", end.value) from None
        return end.value
    if not isinstance(asked, Encode | Backward):
        raise _unexpected(world, "local_update asked for", asked)
    return asked


def _unexpected(world: World, what: str, value: Any) -> MethodError:
    return MethodError(
        f"method {world.config.method}: {what} {_named(value)}, should be a generator that yields Encode and Backward "
        f"and returns an Update, or return one itself"
    )


def _named(value: Any) -> str:
    """A value by its kind, since tensors are long."""
    return "None" if value is None else f"a {type(value).__name__}"


def _answer(world: World, asked: dict[int, Encode | Backward]) -> dict[int, Tensor | None]:
    losses = {index: request.loss for index, request in asked.items() if isinstance(request, Backward)}
    if losses:
        torch.autograd.backward(list(losses.values()))
    alike = defaultdict(list)
    for index, request in asked.items():
        if isinstance(request, Encode):
            alike[request.contexts.shape, request.contexts.requires_grad].append(index)
    answers: dict[int, Tensor | None] = dict.fromkeys(losses)
    for indices in alike.values():
        contexts = [asked[index].contexts for index in indices]
        features = encode_contexts(world, torch.cat(contexts))
        parts = features.split([len(one) for one in contexts])
        if not features.requires_grad:
            parts = [part.clone() for part in parts]  # what is kept of one shall not keep all of them in memory
        answers |= dict(zip(indices, parts, strict=True))
    return answers
