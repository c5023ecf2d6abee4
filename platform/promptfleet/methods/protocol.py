"""Protocol of a federated method: a handful of pure functions over flat named tensors.

A method keeps nothing in attributes. The server's state, a client's private state and every message are
``dict[str, Tensor]``, so that any of them can be checkpointed, hashed and counted in bytes without knowing the method.
One round is ``select -> local_update -> aggregate``, one evaluation ``select -> personalize -> predict``; a client
never asks the server for anything in between.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Flag, auto
from functools import partial
from math import prod
from typing import ClassVar, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from promptfleet.clip.frozen import FrozenClip
from promptfleet.clip.image_tower import ImageTower
from promptfleet.clip.prompt_layout import ClassTokens
from promptfleet.config import FederationConfig
from promptfleet.errors import MethodError
from promptfleet.methods.parts.averaging import average
from promptfleet.seeding import stream

State = dict[str, Tensor]
Purpose = Literal["train", "evaluate"]


class PixelReader(Protocol):
    """Reader of a dataset's images by their indices, as the input of ``World.image_tower``."""

    def __call__(self, indices: np.ndarray) -> Tensor:
        """Return ``[images, 3, height, width]`` on the world's device."""

    def for_update(self, indices: np.ndarray) -> Tensor | None:
        """Return the same if a step would otherwise have to copy its batch to the device, and there is room."""


class RowStore(Protocol):
    """Rows of numbers that a server keeps on disk, outside its state: rows of one kind all have one size.

    The server state records which rows it owns; these are only ever rewritten with identical content.
    """

    def write(self, kind: str, start: int, rows: Tensor) -> None:
        """Write ``rows [rows, ...]`` to the places from ``start`` on. On disk when it returns, or FederationError."""

    def read(self, kind: str, ids: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return the rows ``[ids, *shape]`` at these places. Raises DataError: cut off."""

    def check(self, kind: str, count: int, row_bytes: int) -> None:
        """Raise DataError if there are fewer rows of that size than ``count``."""


@dataclass(frozen=True)
class World:
    """Frozen and shared inputs: the configuration, CLIP's text side and the class names (label k is entry k).

    ``image_tower`` is CLIP's image side, there only for methods whose ``needs`` are ``PIXELS``; ``upload_noise`` the
    standard deviation of the noise of ``config.privacy`` in each number of an upload; ``rows`` are the server's alone,
    and there only for methods that keep some; ``texts`` are the embedded tokens of the method's ``texts``; ``public``
    are examples that the server has, and no client, if ``partition.public_fraction`` gives it some. In the world of a
    method that gives a class several texts, ``text_classes [texts]`` has the class of each of ``clip.classes``; None: a
    text per class, in their order.
    """

    config: FederationConfig
    clip: FrozenClip
    class_names: tuple[str, ...]
    image_tower: ImageTower | None = None
    upload_noise: float = 0.0
    rows: RowStore | None = None
    texts: Mapping[str, ClassTokens] = field(default_factory=dict)
    public: "Examples | None" = None
    text_classes: Tensor | None = None

    def tokens(self, texts: str) -> ClassTokens:
        """Return the embedded tokens of the ``classes``, or of the list of texts of that name.

        Raises MethodError: there is no such list.
        """
        if texts == "classes":
            return self.clip.classes
        if texts not in self.texts:
            known = ", ".join(["classes", *self.texts])
            raise MethodError(f"method {self.config.method}: there are no texts {texts!r}, only {known}")
        return self.texts[texts]

    @property
    def longest_class(self) -> str:
        """Name of the class that has the longest text."""
        text = int(self.clip.classes.lengths.argmax())
        return self.class_names[text if self.text_classes is None else int(self.text_classes[text])]

    @property
    def device(self) -> torch.device:
        """Device of the tensors, on which a client's update computes."""
        return self.clip.zero_shot_text.device

    def to(self, device: torch.device | str) -> "World":
        tower = self.image_tower and self.image_tower.to(device)
        texts = {name: tokens.to(device) for name, tokens in self.texts.items()}
        text_classes = None if self.text_classes is None else self.text_classes.to(device)
        return replace(self, clip=self.clip.to(device), image_tower=tower, texts=texts, text_classes=text_classes)


class Needs(Flag):
    """Inputs that a method needs: of an image, the frozen CLIP's one global feature, and those of patches, or pixels.

    PIXELS is for gradients through the image encoder: images are encoded at each step, not once, and decoded ones are
    kept in memory while there is room. PUBLIC are examples on the server, ``World.public``. Needs add up:
    ``Needs.PATCHES | Needs.PUBLIC``.
    """

    GLOBAL = 0
    PATCHES = auto()
    PIXELS = auto()
    PUBLIC = auto()


@dataclass(frozen=True)
class Pixels:
    """Images of the dataset that ``load`` reads on request; ``indices`` are the dataset's own."""

    indices: np.ndarray
    read: PixelReader

    def __getitem__(self, chosen: Tensor) -> "Pixels":
        return Pixels(self.indices[chosen.cpu().numpy()], self.read)

    def load(self) -> Tensor:
        """Return ``[images, 3, height, width]``, the input of ``World.image_tower``."""
        return self.read(self.indices)

    def for_update(self) -> "Pixels | LoadedPixels":
        """Return the same images, loaded if ``PixelReader.for_update`` says so."""
        loaded = self.read.for_update(self.indices)
        return self if loaded is None else LoadedPixels(loaded)


@dataclass(frozen=True)
class LoadedPixels:
    """Images ``[images, 3, height, width]`` in memory of the device."""

    tensor: Tensor

    def __getitem__(self, chosen: Tensor) -> "LoadedPixels":
        return LoadedPixels(self.tensor[chosen])

    def load(self) -> Tensor:
        """Return ``[images, 3, height, width]``."""
        return self.tensor


@dataclass(frozen=True)
class Images:
    """Features of some images from the frozen CLIP.

    ``features [images, dim]``, unit norm; ``patches [images, patches, dim]``, each unit norm, and ``pixels``, if the
    method's ``needs`` ask for them; ``views [images, views, dim]`` of images to train on, if ``features.views`` asks
    for them.
    """

    features: Tensor
    patches: Tensor | None = None
    views: Tensor | None = None
    pixels: Pixels | LoadedPixels | None = None

    def __len__(self) -> int:
        return self.features.shape[0]

    def __getitem__(self, chosen: Tensor) -> "Images":
        rest = (None if part is None else part[chosen] for part in (self.patches, self.views, self.pixels))
        return Images(self.features[chosen], *rest)

    def for_update(self) -> "Images":
        """Return the same images, in memory of the device if a step would otherwise have to copy its batch there."""
        return self if self.pixels is None else replace(self, pixels=self.pixels.for_update())


@dataclass(frozen=True)
class Examples:
    """Images of one client and their labels ``[examples]``."""

    images: Images
    labels: Tensor

    def __len__(self) -> int:
        return self.labels.shape[0]

    def __getitem__(self, chosen: Tensor) -> "Examples":
        return Examples(self.images[chosen], self.labels[chosen])


def _num_bytes(tensor: Tensor) -> int:
    if tensor.dtype == torch.bool:
        return -(-tensor.numel() // 8)
    return tensor.numel() * tensor.element_size()


@dataclass(frozen=True)
class Message:
    """Message between server and client.

    ``tensors`` is the content of the real protocol's message, and all that is counted. ``attached`` is passed along by
    the simulation to avoid computing it twice (text features of a prompt that is in the message, a start that follows
    from the seed), to report it (ids of experts), or to let the client pick some (``Update.fetched``): no method may
    learn anything else from it that a client of the real protocol would not know from ``tensors`` and the
    configuration.
    """

    tensors: State
    attached: State = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """Return the size of ``tensors`` in bytes; a mask counts a bit per entry, each tensor whole bytes."""
        return sum(_num_bytes(tensor) for tensor in self.tensors.values())


@dataclass(frozen=True)
class UpTo:
    """A size that differs between uploads, from 0 to ``most``; an entry of a ``Spec``'s shape."""

    most: int

    def __repr__(self) -> str:
        return f"up to {self.most}"


@dataclass(frozen=True)
class Spec:
    """Form of one uploaded tensor.

    ``trained`` is false for real numbers that are no parameters, such as statistics. Attacks alter trained real numbers
    alone, and privacy has noise for nothing else.
    """

    shape: tuple[int | UpTo, ...]
    dtype: torch.dtype = torch.float32
    trained: bool = True

    def fits(self, shape: Sequence[int]) -> bool:
        """Return True if a tensor may have this shape."""
        return len(shape) == len(self.shape) and all(
            size <= wanted.most if isinstance(wanted, UpTo) else size == wanted
            for size, wanted in zip(shape, self.shape, strict=True)
        )

    @property
    def numbers(self) -> int:
        """The largest number of entries."""
        return prod(size.most if isinstance(size, UpTo) else size for size in self.shape)

    @property
    def is_point(self) -> bool:
        """True if training moves it a little: trained real numbers, and no mask or count."""
        return self.trained and self.dtype.is_floating_point


@dataclass(frozen=True)
class Update:
    """Result of a client's local update: its next private state, its upload, and figures to report.

    ``fetched`` are tensors that the client picked among attached ones, by what is in the download: in the real
    protocol it asks for these alone, so they count as downloaded.
    """

    private: State
    upload: Message
    metrics: dict[str, float]
    fetched: State = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """One client's part of a round: everything that this client may look at.

    ``round`` counts from 1; an evaluation belongs to the round that it follows. ``train`` and ``val`` are the client's
    training and validation examples. All randomness comes from ``rng``, whose stream depends on the seed, the client,
    the round and the function that gets the task; that of predictions is the same after each round.
    ``candidates [classes]`` is true for classes that a prediction may give, None for all; other logits are masked.
    """

    world: World
    client: int
    round: int
    private: State
    download: Message
    train: Examples
    val: Examples
    rng: np.random.Generator
    candidates: Tensor | None = None

    @property
    def config(self) -> FederationConfig:
        """Configuration of the federation."""
        return self.world.config

    @property
    def classes(self) -> Tensor:
        """The classes of the client's training examples, ascending."""
        return self.train.labels.unique()

    def to_predict(self) -> "Task":
        """Return the task with the random stream of predictions, which begins at the same place after each round."""
        return replace(self, rng=stream(self.config.seed, "predict", client=self.client))


@dataclass(frozen=True)
class Call:
    """Request for downloads: all that the server may use when it makes them, apart from its state.

    ``clients`` may be a part of the cohort. ``purpose`` is to train in ``round``, or to be evaluated after it.
    ``shared_rng`` is the same for each part of a round.
    """

    world: World
    round: int
    clients: Sequence[int]
    purpose: Purpose
    shared_rng: np.random.Generator

    def rng(self, client: int) -> np.random.Generator:
        """Return the stream of one client's download, which depends on the seed, the client and the round."""
        return stream(self.world.config.seed, "select", client=client, round_index=self.round)

    def to_all(self, message: Message) -> dict[int, Message]:
        """Give every client the same download."""
        return dict.fromkeys(self.clients, message)


@dataclass(frozen=True)
class Arrived:
    """Accepted uploads of a round, at least one, in the order of client ids, and the examples behind each."""

    world: World
    round: int
    uploads: Mapping[int, Message]
    num_examples: Mapping[int, int]
    rng: np.random.Generator

    def sent(self, name: str) -> State:
        """Return the uploaded tensor ``name`` of each client, by client id."""
        return {client: upload.tensors[name] for client, upload in self.uploads.items()}

    def of_each(self, make: Callable[[State], State]) -> "Arrived":
        """Return the same arrivals with ``make(tensors)`` in the place of each client's uploaded tensors."""
        made = {client: replace(one, tensors=make(one.tensors)) for client, one in self.uploads.items()}
        return replace(self, uploads=made)

    def mean(
        self,
        weights: Literal["examples", "equal"] | Mapping[int, float] = "examples",
        names: Collection[str] | None = None,
    ) -> State:
        """Average each uploaded tensor, or those of ``names``, over clients, as ``config.aggregation`` says.

        A mean weighs clients by ``weights``, which may be numbers by client id, not all of them 0; median and trimmed
        mean count every client the same. Tensors of different shapes have no mean.
        """
        counts = {"examples": self.num_examples, "equal": dict.fromkeys(self.uploads, 1)}
        uploads = {
            client: {name: tensor for name, tensor in upload.tensors.items() if names is None or name in names}
            for client, upload in self.uploads.items()
        }
        return average(self.world.config, uploads, counts[weights] if isinstance(weights, str) else weights)


@dataclass(frozen=True)
class Encode:
    """Request of work for text features of ``contexts [prompts, (classes,) tokens, width]``.

    The answer is ``[prompts, classes, dim]``, unit norm, which gradients flow through. ``texts`` names a list of the
    method's texts, which are then encoded in place of the class names. With ``lengths [prompts]`` contexts are padded,
    and only the first tokens of each count: contexts of several lengths then go through the tower in one batch. A
    ``block`` takes the place of every layer of the text tower (see ``clip.shared_block``), and gets gradients, too.
    """

    contexts: Tensor
    texts: str = "classes"
    lengths: Tensor | None = None
    block: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class EncodeImages:
    """Request of work for features of ``pixels [images, 3, height, width]`` from CLIP's image tower.

    The answer is ``[images, dim]``, unit norm, which gradients flow through. ``inserted[i] [images, tokens, width]``
    come after the class token before block i of a vision transformer, and stay; the features are then those of the mean
    of the first ``pooled`` tokens. Any other image tower takes pixels alone.
    """

    pixels: Tensor
    inserted: Mapping[int, Tensor] = field(default_factory=dict)
    pooled: int = 1


@dataclass(frozen=True)
class Backward:
    """Request of work for the gradients of the scalar ``loss``; they are in ``grad`` afterwards."""

    loss: Tensor


@dataclass(frozen=True)
class Gradients:
    """Request of work for the gradients of the scalar ``loss`` with respect to each tensor ``of``.

    The answer is a tuple, which gradients flow through again; ``grad`` stays as it is.
    """

    loss: Tensor
    of: Sequence[Tensor]


ResultT = TypeVar("ResultT")
Request = Encode | EncodeImages | Backward | Gradients
Answer = Tensor | tuple[Tensor, ...] | None
Work = Generator[Request, Answer, ResultT]  # a computation that comes to a result


class Method(ABC):
    """A federated method. All functions are pure: no argument is changed, all randomness comes from ``rng``.

    Functions that may return ``Work`` can be generators instead. Written as ``text = yield Encode(contexts)`` and
    ``yield Backward(loss)``, one reads like a loop of its own; local updates and personalizations of the clients of
    one process still go through the text tower, and by ``EncodeImages`` through the image tower, together (see
    ``parts.side_by_side``).
    """

    Config: ClassVar[type[FederationConfig]] = FederationConfig
    needs: ClassVar[Needs] = Needs.GLOBAL  # of any configuration
    has_memory: ClassVar[bool] = False  # a prediction depends on the images that were predicted before
    draws_to_predict: ClassVar[bool] = False  # a prediction depends on ``task.rng``
    context_names: ClassVar[tuple[str, ...]] = ("context",)  # last parts of the names of states that are contexts

    def needs_of(self, config: FederationConfig) -> Needs:
        """Return what the method needs with this configuration, by default its ``needs``."""
        return self.needs

    def has_prompt(self, config: FederationConfig) -> bool:
        """Return True if there are learnable vectors next to the class names; otherwise keys about them do nothing."""
        return True

    def texts(self, config: FederationConfig, class_names: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """Return further lists of texts by name, such as descriptions of classes; ``World.texts`` has their tokens."""
        return {}

    def own_world(self, world: World) -> World:
        """Return the world that all other functions get, from one with the method's ``texts``; by default the same.

        Raises ConfigError where the configuration does not fit the texts.
        """
        return world

    def check(self, world: World) -> None:  # noqa: B027  most methods fit everywhere
        """Raise ConfigError where the configuration does not fit this backbone or these classes."""

    @abstractmethod
    def init_server(self, world: World, rng: np.random.Generator) -> State | Work[State]:
        """Make the server's state before round 1; not called if a run resumes."""

    def init_client(self, world: World, client: int, rng: np.random.Generator) -> State:
        """Make a client's private state before it trains; "never trained" is a flag in it, not a missing key."""
        return {}

    @abstractmethod
    def select(self, server: State, call: Call) -> dict[int, Message]:
        """Return the download of each of ``call.clients``, from the last round's state.

        An evaluation needs no more than ``personalize`` and ``predict`` use. A client's download must not depend on the
        rest of the cohort: callers may request it in several parts.
        """

    @abstractmethod
    def local_update(self, task: Task) -> Update | Work[Update]:
        """Train on ``task.train``."""

    @abstractmethod
    def uploads(self, world: World) -> dict[str, Spec]:
        """Promise the form of every tensor of an upload; the server rejects others."""

    def trained_parameters(self, world: World) -> int:
        """Count the numbers that a client's local update trains; by default the trained ones that it uploads."""
        return sum(spec.numbers for spec in self.uploads(world).values() if spec.is_point)

    @abstractmethod
    def aggregate(self, server: State, arrived: Arrived) -> State | Work[State]:
        """Make the server's next state from the accepted uploads."""

    def participation(self, config: FederationConfig, round_index: int) -> float:
        """Return the share of the clients that train in a round, more than 0; by default ``config.participation``."""
        return config.participation

    @abstractmethod
    def predict(self, task: Task, images: Images) -> Tensor:
        """Return logits ``[images, classes]``; ``task.private`` is the result of ``personalize``."""

    def predictor(self, task: Task) -> Callable[[Images], Tensor]:
        """Return the function that gives the logits of a client's images, by default ``predict`` with the task.

        A new one is made for each set of images, and called with all of them or large parts. With ``has_memory`` it is
        called with batches of ``batch_size`` in an order drawn from the seed, the same after each round, so it may
        learn from earlier images what helps with later ones. It never sees a label.
        """
        return partial(self.predict, task)

    def personalize(self, task: Task) -> State | Work[State]:
        """Return the private state to predict with, after another use of the training examples; never uploaded."""
        return task.private


# Optional capabilities: a method that has these functions has the capability.


@runtime_checkable
class Describes(Protocol):
    """A method with numbers about each client that figures show."""

    def describe(self, task: Task, images: Images) -> State:
        """Return small tensors by name, such as the mean weights of the client's gate on ``images``."""


@runtime_checkable
class PredictsOtherClasses(Protocol):
    """A method that can predict classes that it was not trained on."""

    def reworded(self, task: Task, world: World) -> "Task | Work[Task]":
        """Return the task to predict the classes of ``world`` with: the same prompts, and other class names after them.

        ``task.private`` is what ``personalize`` returned. ``task.train`` and ``task.val`` keep their labels.
        """


@runtime_checkable
class HasServerModel(Protocol):
    """A method whose server has a model of its own, which predicts from the download alone.

    Shared samples are predicted once for all clients whose personalized state is that of this model. A subclass without
    one sets ``server_model = None``.
    """

    def server_model(self, task: Task) -> State:
        """Return the private state with which ``predict`` gives the logits of the server's model.

        ``task.private`` is a client's personalized state, which the model does not depend on.
        """


@runtime_checkable
class AttachesToUploads(Protocol):
    """A method whose uploads have attached tensors that follow from the uploaded ones."""

    def attachments(self, world: World, tensors: State) -> State:
        """Compute the attachments of an upload whose ``tensors`` privacy or an attack has altered."""


@runtime_checkable
class ExcludesClients(Protocol):
    """A method that may not give the uploads of some clients to others."""

    def excluded(self, world: World, server: State) -> dict[int, str]:
        """Return the reason for each client that the server excludes; each round reports them."""


@runtime_checkable
class KeepsRows(Protocol):
    """A method whose server may keep rows on disk, in ``World.rows``."""

    def keeps_rows(self, config: FederationConfig) -> bool:
        """Return True if it does with this configuration."""

    def check_rows(self, world: World, server: State) -> None:
        """Raise DataError if rows that a restored state refers to are missing."""
