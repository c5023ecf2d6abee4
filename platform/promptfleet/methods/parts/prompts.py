"""Building blocks of prompt methods: contexts, their text features and batches."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from promptfleet.clip.prompt_encoder import encode_prompts
from promptfleet.clip.shared_block import with_shared_block
from promptfleet.devices import from_numpy
from promptfleet.errors import ConfigError
from promptfleet.methods.parts.precision import in_precision
from promptfleet.methods.protocol import Encode, Examples, Images, State, Task, Work, World

CONTEXT_STD = 0.02


def context_shape(world: World) -> tuple[int, ...]:
    """Return ``(tokens, width)`` or, if every class has its own context, ``(classes, tokens, width)``."""
    shape = (world.config.prompt_length, world.clip.tower.width)
    return (len(world.clip.classes), *shape) if world.config.class_specific_context else shape


def require_a_text_per_class(world: World) -> None:
    """Raise ConfigError if a class has several texts, for methods that train with the texts of a client's classes."""
    if world.text_classes is not None:
        raise ConfigError(
            f"method {world.config.method}: a client trains with the texts of its classes, one each; leave out the "
            "words of classes"
        )


def require_rank(world: World, key: str, rank: int) -> None:
    """Raise ConfigError if a private part of that ``rank``, which is the value of ``key``, exceeds a prompt."""
    tokens, width = context_shape(world)[-2:]
    if rank > min(tokens, width):
        raise ConfigError(
            f"{key}={rank} exceeds the rank of a prompt, which is at most {min(tokens, width)} for {tokens} tokens of "
            f"width {width}"
        )


def init_context(world: World, rng: np.random.Generator) -> Tensor:
    """Draw a random context, normal with standard deviation 0.02 (CoOp, arXiv:2109.01134).

    Vectors that a template adds to embeddings of words start at 0.
    """
    context = torch.from_numpy(rng.normal(0.0, CONTEXT_STD, context_shape(world)).astype(np.float32))
    if frame := world.clip.classes.frame:
        context[..., frame.with_start.cpu(), :] = 0
    return context


def context_with_text(world: World, context: Tensor) -> State:
    """Return a context after training as state: ``context`` and its ``text`` features."""
    return {"context": context, "text": encode_frozen(world, context)}


def no_context_yet(world: World) -> State:
    """Return the same as the private state of a client that never trained: zeros, with 0 ``participations``."""
    return {
        "context": torch.zeros(context_shape(world)),
        "text": torch.zeros(len(world.clip.classes), world.clip.tower.dim),
        "participations": torch.tensor(0),
    }


def encoded(context: Tensor) -> Work[State]:
    """Return a context as state, with its ``text`` features: ``context_with_text`` for ``yield from``."""
    (text,) = yield Encode(context.unsqueeze(0))
    return {"context": context, "text": text}


def own_or_given_text(task: Task) -> Tensor:
    """Return text features of the client's own prompt, or of the downloaded one if it has none or never trained."""
    has_own = "text" in task.private and task.private.get("participations", 1) > 0
    return (task.private if has_own else task.download.attached)["text"]


def encode_contexts(world: World, contexts: Tensor, texts: str = "classes", lengths: Tensor | None = None) -> Tensor:
    """Return class text features ``[prompts, classes, dim]``, float32, unit norm, of ``contexts [prompts, ...]``.

    ``texts`` names another list of the method's texts to put the contexts before; without tokens in the context, that
    encodes the texts themselves. Of each context the first ``lengths [prompts]`` tokens count, by default all. The text
    tower runs in ``config.precision``, everything else in float32.
    """
    tokens, position = world.tokens(texts), world.config.class_token_position
    among_classes = contexts.dim() == 4 or position != "end"  # then a class's own tokens come after padding
    if lengths is not None and among_classes:
        each = zip(contexts.split(1), lengths.tolist(), strict=True)
        return torch.cat([encode_contexts(world, one[..., :length, :], texts) for one, length in each])
    return in_precision(
        world.config,
        world.clip.tower,
        [contexts],
        lambda tower, given: encode_prompts(tower, tokens, *given, position, lengths),
    )


def with_block(world: World, block: Mapping[str, Tensor]) -> World:
    """Return the world with ``block`` in the place of every layer of the text tower."""
    return replace(world, clip=replace(world.clip, tower=with_shared_block(world.clip.tower, block)))


@torch.no_grad()
def encode_frozen(world: World, context: Tensor, texts: str = "classes") -> Tensor:
    """Return text features ``[classes, dim]`` of one context after training, on the context's device."""
    return encode_contexts(world, context.to(world.device).unsqueeze(0), texts)[0].to(context.device)


def similarity_logits(world: World, features: Tensor, text: Tensor) -> Tensor:
    """Return CLIP's logits ``[batch, classes]``: the scaled cosine of image ``[batch, dim]`` and text features."""
    return world.clip.logit_scale * features @ text.T


def local_batches(task: Task, epochs: int | None = None) -> Iterator[Examples]:
    """Yield batches of ``task.train`` in ``epochs`` (default: ``local_epochs``), each in a new order.

    The last batch of an epoch may be smaller. If the images have views, an epoch sees one of them per image instead of
    the image itself.
    """
    for order, drawn in _draw_epochs(task, task.config.local_epochs if epochs is None else epochs):
        epoch = task.train if drawn is None else _with_views(task.train, drawn)
        for chosen in order.split(task.config.batch_size):
            yield epoch[chosen]


def _draw_epochs(task: Task, epochs: int) -> list[tuple[Tensor, Tensor | None]]:
    """Draw the order of the examples in each epoch and, if there are views, the one of each example.

    All of it is drawn on the CPU and copied to the examples' device at once: no step waits for a copy.
    """
    examples, rng = task.train, task.rng
    count, views, device = len(examples), examples.images.views, examples.labels.device
    orders, drawn = [], []
    for _ in range(epochs):
        if views is not None:
            drawn.append(rng.integers(views.shape[1], size=count))
        orders.append(rng.permutation(count) if task.config.shuffle else np.arange(count))
    if not orders:
        return []
    moved = from_numpy(np.stack([*orders, *drawn]), device)
    return list(zip(moved[:epochs], moved[epochs:] if drawn else [None] * epochs, strict=True))


def _with_views(examples: Examples, drawn: Tensor) -> Examples:
    views = examples.images.views
    return Examples(Images(views[torch.arange(len(views), device=views.device), drawn]), examples.labels)
