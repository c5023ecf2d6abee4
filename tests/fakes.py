"""Stand-ins small enough to run in milliseconds: a seeded text tower, class tokens, a world, examples, a client."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from zlib import crc32

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from promptfleet.clip.frozen import FrozenClip
from promptfleet.clip.image_tower import ImageTower
from promptfleet.clip.plain_encoder import encode_texts
from promptfleet.clip.prompt_layout import ClassTokens
from promptfleet.clip.text_tower import TextTower
from promptfleet.clip.tokens import embed_classes
from promptfleet.config import FederationConfig
from promptfleet.data.client_split import ClientSplit
from promptfleet.data.feature_store import NONE, FeatureStore
from promptfleet.federation.client import Client
from promptfleet.methods import load_method
from promptfleet.methods.pfedmoap import PFedMoAPConfig
from promptfleet.methods.protocol import Arrived, Examples, Images, Message, Method, Needs, Pixels, State, Task, World

VOCABULARY = 40  # the last two ids are SOS and EOT, as in CLIP's own
NAME_LENGTHS = (1, 3, 2, 1)
PATCHES = 5  # per image
_WORD = re.compile(r"\w+|[^\w\s]")
SIDE = 8  # pixels
TINY = {
    "clients": 4,
    "rounds": 3,
    "local_epochs": 2,
    "batch_size": 4,
    "prompt_length": 3,
    "prompt_lr": 0.05,
}
TINY_OWN = {
    "gate_width": 8,
    "gate_heads": 2,
    "finetune_epochs": 1,
    "train_samples": 3,
    "test_samples": 3,
    "attention_reduction": 4,
    "distillation_steps": 1,
    "shared_blocks": 1,
    "group_blocks": 1,
}  # of the methods that have such a key


def tiny_tower(
    *,
    width: int = 16,
    heads: int = 2,
    layers: int = 2,
    dim: int = 24,
    positions: int = 77,
    quick_gelu: bool = False,
    seed: int = 0,
) -> TextTower:
    """A text tower whose every weight and bias is random, so that none can be forgotten or swapped unnoticed."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, std: float, mean: float = 0.0) -> Tensor:
        return mean + std * torch.randn(shape, generator=generator)

    def linear(name: str, out: int, inputs: int, join: str = ".") -> dict[str, Tensor]:
        return {f"{name}{join}weight": normal(out, inputs, std=inputs**-0.5), f"{name}{join}bias": normal(out, std=0.1)}

    def norm(name: str) -> dict[str, Tensor]:
        return {f"{name}.weight": normal(width, std=0.1, mean=1.0), f"{name}.bias": normal(width, std=0.1)}

    weights = {
        "token_embedding.weight": normal(VOCABULARY, width, std=0.3),
        "positional_embedding": normal(positions, width, std=0.1),
        "text_projection": normal(width, dim, std=width**-0.5),
        **norm("ln_final"),
    }
    for block in (f"transformer.resblocks.{layer}" for layer in range(layers)):
        weights |= norm(f"{block}.ln_1") | norm(f"{block}.ln_2")
        weights |= linear(f"{block}.attn.in_proj", 3 * width, width, join="_")
        weights |= linear(f"{block}.attn.out_proj", width, width)
        weights |= linear(f"{block}.mlp.c_fc", 4 * width, width) | linear(f"{block}.mlp.c_proj", width, 4 * width)
    return TextTower(weights, layers, heads, quick_gelu)


def tiny_image_tower(dim: int = 24, *, layers: int = 2) -> ImageTower:
    """A vision transformer of four patches, of random weights, too."""
    generator = torch.Generator().manual_seed(1)
    tower = tiny_tower(dim=dim, layers=layers, positions=5, seed=1)
    own = {
        "conv1.weight": torch.randn(tower.width, 3, SIDE // 2, SIDE // 2, generator=generator) / SIDE,
        "class_embedding": 0.3 * torch.randn(tower.width, generator=generator),
        "ln_pre.weight": 1 + 0.1 * torch.randn(tower.width, generator=generator),
        "ln_pre.bias": 0.1 * torch.randn(tower.width, generator=generator),
    }
    names = {"ln_final.weight": "ln_post.weight", "ln_final.bias": "ln_post.bias", "text_projection": "proj"}
    blocks = {names.get(name, name): tensor for name, tensor in tower.weights.items() if "token" not in name}
    head_width = tower.width // tower.heads
    vision = {
        "image_size": SIDE,
        "layers": layers,
        "width": tower.width,
        "head_width": head_width,
        "patch_size": SIDE // 2,
    }
    return ImageTower(own | blocks, {"embed_dim": dim, "vision_cfg": vision}, {"size": SIDE})


class TinyPixels:
    """Images ``[images, 3, 8, 8]`` as a ``PixelReader`` of a world's device."""

    def __init__(self, world: World, pixels: Tensor):
        self._pixels, self._device = pixels, world.device

    def __call__(self, indices: np.ndarray) -> Tensor:
        return self._pixels[torch.from_numpy(indices)].to(self._device)

    def for_update(self, indices: np.ndarray) -> Tensor | None:
        return None if self._device.type == "cpu" else self(indices)


def tiny_token_ids(name_lengths: Sequence[int] = NAME_LENGTHS, *, positions: int = 77, seed: int = 0) -> Tensor:
    """Rows ``[SOS][name tokens].[EOT][zeros]`` as a tokenizer gives them; token 1 is the full stop."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.zeros(len(name_lengths), positions, dtype=torch.long)
    for row, length in zip(rows, name_lengths, strict=True):
        name = torch.randint(2, VOCABULARY - 2, (length,), generator=generator).tolist()
        text = [VOCABULARY - 2, *name, 1, VOCABULARY - 1]
        row[: len(text)] = torch.tensor(text)
    return rows


def tiny_classes(tower: TextTower, name_lengths: Sequence[int] = NAME_LENGTHS, *, seed: int = 0) -> ClassTokens:
    return embed_classes(tower, tiny_token_ids(name_lengths, positions=tower.positions, seed=seed))


def tiny_clip(name_lengths: Sequence[int] = NAME_LENGTHS, *, logit_scale: float = 20.0, **tower) -> FrozenClip:
    """A frozen CLIP with one class per name length; as in a real run, its tower has no token table."""
    full = tiny_tower(**tower)
    token_ids = tiny_token_ids(name_lengths, positions=full.positions)
    weights = {name: tensor for name, tensor in full.weights.items() if name != "token_embedding.weight"}
    return FrozenClip(
        tower=TextTower(weights, full.layers, full.heads, full.quick_gelu),
        classes=embed_classes(full, token_ids),
        zero_shot_text=encode_texts(full, token_ids),
        logit_scale=logit_scale,
    )


def tiny_world(*, config_class: type[FederationConfig] = PFedMoAPConfig, clip: FrozenClip | None = None, **config):
    """A world of 4 classes, 4 clients, 3 rounds; ``config`` overrides, ``lambda`` by its alias or as ``lambda_``."""
    defaults = TINY | {key: value for key, value in TINY_OWN.items() if key in config_class.model_fields}
    clip = clip or tiny_clip()
    names = tuple(f"class {label}" for label in range(len(clip.classes)))
    config = config_class.model_validate({**defaults, **config})
    method = load_method(config.method)
    texts = {name: tiny_texts(listed, clip.tower) for name, listed in method.texts(config, names).items()}
    image_tower = tiny_image_tower(clip.tower.dim) if Needs.PIXELS in method.needs_of(config) else None
    return method.own_world(World(config, clip, names, image_tower, texts=texts))


def tiny_texts(texts: Sequence[str], tower: TextTower) -> ClassTokens:
    """The embedded tokens of texts: a full stop is token 1, each other mark or word one of the vocabulary."""
    rows = torch.zeros(len(texts), tower.positions, dtype=torch.long)
    for row, text in zip(rows, texts, strict=True):
        words = [1 if word == "." else 2 + crc32(word.encode()) % (VOCABULARY - 4) for word in _WORD.findall(text)]
        row[: len(words) + 2] = torch.tensor([VOCABULARY - 2, *words, VOCABULARY - 1])
    return embed_classes(tiny_tower(width=tower.width, positions=tower.positions), rows)


def tiny_examples(world: World, count: int = 10, *, seed: int = 0) -> Examples:
    """Unit-norm features near their class's text feature, so that there is something to learn; labels take turns."""
    generator = torch.Generator().manual_seed(seed)
    text = world.clip.zero_shot_text.cpu()
    if world.text_classes is not None:  # the first text of each class
        text = text[[world.text_classes.tolist().index(label) for label in range(len(world.class_names))]]
    labels = (torch.arange(count) + seed) % len(text)
    noise = torch.randn(count, text.shape[1], generator=generator) * text.shape[1] ** -0.5
    features = F.normalize(text[labels] + noise, dim=-1)
    patch_noise = torch.randn(count, PATCHES, text.shape[1], generator=generator) * text.shape[1] ** -0.5
    images = Images(features, F.normalize(features.unsqueeze(1) + patch_noise, dim=-1))
    if world.image_tower is not None:
        of_class = torch.randn(len(text), 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5))
        pixels = of_class[labels] + torch.randn(count, 3, SIDE, SIDE, generator=generator)
        images = replace(images, pixels=Pixels(np.arange(count), TinyPixels(world, pixels)))
    return Examples(images, labels)


def tiny_task(
    world: World,
    private: State | None = None,
    download: Message | None = None,
    train: Examples | None = None,
    *,
    seed: int = 0,
    round_index: int = 1,
) -> Task:
    """Client 0's task with an empty state, download and training part where none is given; ``seed`` is its rng's."""
    nothing = Examples(Images(torch.empty(0, world.clip.tower.dim)), torch.empty(0, dtype=torch.int64))
    return Task(
        world=world,
        client=0,
        round=round_index,
        private=private or {},
        download=download or Message({}),
        train=nothing if train is None else train,
        val=nothing,
        rng=np.random.default_rng(seed),
    )


def tiny_arrived(world: World, uploads: Mapping[int, Message], num_examples: Mapping[int, int]) -> Arrived:
    """Uploads of round 1 as a method's ``aggregate`` gets them."""
    return Arrived(world, 1, uploads, num_examples, np.random.default_rng(0))


def tiny_client(
    client_id: int, method: Method, world: World, *, train: Examples | None = None, held_out: int = 4
) -> Client:
    """A client that trains on ``train`` and has ``held_out`` examples each to validate and to test on."""
    train = tiny_examples(world, 6 + 2 * client_id, seed=client_id) if train is None else train
    rest = tiny_examples(world, 2 * held_out, seed=1000 + client_id)
    labels = torch.cat([train.labels, rest.labels]).numpy()
    features = torch.cat([train.images.features, rest.images.features]).numpy()
    seen = train.images.patches is not None
    patches = torch.cat([train.images.patches, rest.images.patches]).numpy() if seen else None
    none = np.full_like(labels, NONE)
    store = FeatureStore(features, labels, none, none, {}, patches)
    parts = np.split(np.arange(len(labels)), [len(train), len(train) + held_out])
    reader = None
    if train.images.pixels is not None:
        reader = TinyPixels(world, torch.cat([some.images.pixels.load().cpu() for some in (train, rest)]))
    return Client(client_id, method, world, store, ClientSplit(*parts), reader)
