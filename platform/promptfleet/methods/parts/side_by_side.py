"""Work of several clients side by side, their prompts or images through a tower in one batch."""

from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from promptfleet.clip.shared_block import stacked
from promptfleet.errors import MethodError
from promptfleet.methods.parts.images import encode_images
from promptfleet.methods.parts.prompts import encode_contexts, with_block
from promptfleet.methods.protocol import (
    Answer,
    Backward,
    Encode,
    EncodeImages,
    Gradients,
    Request,
    ResultT,
    Task,
    Update,
    Work,
    World,
)

SIDE_BY_SIDE = 16  # generators at a time: more would hold more memory, and are no faster
IMAGE_BYTES = 2**30  # that their images may keep in an image tower
RESULTS = {"init_server": dict, "local_update": Update, "aggregate": dict, "personalize": dict, "reworded": Task}


def side_by_side(world: World) -> int:
    """Return the number of generators at a time: fewer where they train through a large image tower."""
    if world.image_tower is None:
        return SIDE_BY_SIDE
    each = world.image_tower.activation_bytes * world.config.batch_size
    return max(1, min(SIDE_BY_SIDE, IMAGE_BYTES // each))


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
    while group := list(islice(todo, side_by_side(world))):
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
        f"method {world.config.method}: {function} {did} {_named(value)}, should be a generator that yields Encode, "
        f"EncodeImages and Backward and returns {result}, or return one itself"
    )


def _named(value: Any) -> str:
    """Return the kind of a value, since tensors are long."""
    return "None" if value is None else f"a {type(value).__name__}"


def _answer(world: World, asked: dict[int, Request]) -> dict[int, Answer]:
    gradients = _gradients(asked)  # before a pass that forgets what they need
    losses = {index: request.loss for index, request in asked.items() if isinstance(request, Backward)}
    if losses:
        torch.autograd.backward(list(losses.values()))
    answers: dict[int, Answer] = gradients | dict.fromkeys(losses)
    for encode, indices in _alike(asked):
        parts = encode(world, [asked[index] for index in indices])
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


def _alike(asked: Mapping[int, Request]) -> Iterator[tuple[Callable[..., Sequence[Tensor]], list[int]]]:
    """Group requests of features that one batch can answer."""
    groups = defaultdict(list)
    for index, request in asked.items():
        if isinstance(request, Encode):
            contexts, padded = request.contexts, request.lengths is not None
            trained = [one.requires_grad for one in (contexts, *request.block.values())]
            key = (request.texts, contexts.shape, padded, *trained)
            groups[_encode_texts, key].append(index)
        elif isinstance(request, EncodeImages):
            tokens = tuple((block, one.shape[1], one.requires_grad) for block, one in request.inserted.items())
            groups[_encode_images, (request.pixels.requires_grad, tokens, request.pooled)].append(index)
    for (encode, _), indices in groups.items():
        yield encode, indices


def _encode_texts(world: World, requests: Sequence[Encode]) -> Sequence[Tensor]:
    contexts, lengths = [request.contexts for request in requests], None
    if requests[0].block:
        world = with_block(world, stacked([request.block for request in requests], len(contexts[0])))
    if requests[0].lengths is not None:
        lengths = torch.cat([request.lengths for request in requests])
    return _parts(encode_contexts(world, torch.cat(contexts), requests[0].texts, lengths), contexts)


def _encode_images(world: World, requests: Sequence[EncodeImages]) -> Sequence[Tensor]:
    if world.image_tower.vision is None:  # whose bits may depend on the number of images
        return [encode_images(world, request.pixels) for request in requests]
    pixels = [request.pixels for request in requests]
    inserted = {block: torch.cat([request.inserted[block] for request in requests]) for block in requests[0].inserted}
    return _parts(encode_images(world, torch.cat(pixels), inserted, requests[0].pooled), pixels)


def _parts(features: Tensor, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return the features of each input."""
    parts = features.split([len(one) for one in inputs])
    if features.requires_grad:
        return parts
    return [part.clone() for part in parts]  # a kept part of one must not keep all of them in memory
