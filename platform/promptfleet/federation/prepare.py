"""Frozen inputs of a federation: encoded images and CLIP's text side for the classes.

Both are computed once per content and kept on disk, so a second run imports neither open_clip nor the images' decoder.
"""

import logging
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import or_
from pathlib import Path

import torch

from promptfleet.clip.backbone import Backbone
from promptfleet.clip.frozen import FrozenClip
from promptfleet.clip.image_tower import ImageTower
from promptfleet.clip.prompt_layout import ClassTokens
from promptfleet.clip.text_tower import TextTower
from promptfleet.clip.tokens import texts_key
from promptfleet.config import FederationConfig, StorageConfig
from promptfleet.data.dataset import Dataset
from promptfleet.data.feature_store import FeatureStore, open_store
from promptfleet.data.samples import Samples
from promptfleet.disks import disk_errors
from promptfleet.features.class_prompts import warn_of_equal_prompts
from promptfleet.features.encoding import Wanted, encode_missing, features_folder, wanted_files
from promptfleet.features.image_encoder import load_inputs
from promptfleet.features.text_features import embedded_texts, text_features
from promptfleet.federation.checks import check_one_backbone, check_public, check_worlds, errors_of, of_transfer
from promptfleet.federation.evaluation.schedule import check_sets
from promptfleet.federation.other_datasets import OtherDataset, config_of, load_others
from promptfleet.federation.partitioning import partition_for
from promptfleet.federation.worlds import all_texts, wanted_texts, world_of
from promptfleet.methods import load_method
from promptfleet.methods.protocol import Needs, World

Encoding = tuple[FederationConfig, Backbone, Dataset, Sequence[Wanted]]  # arguments of ``encode_missing``

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """Frozen inputs of a federation; ``features``, and ``patches`` and ``views`` if any, are files of the store.

    ``image_tower`` is there for methods that need pixels, ``others`` are the datasets that models are only tested on.
    """

    clip: FrozenClip
    features: Path
    class_names: tuple[str, ...]
    domain_names: tuple[str, ...] = ()
    patches: Path | None = None
    views: Path | None = None
    image_tower: ImageTower | None = None
    others: Mapping[str, OtherDataset] = field(default_factory=dict)

    def files(self) -> dict[str, Path]:
        """Return the store's files by their kind."""
        files = {"features": self.features, "patches": self.patches, "views": self.views}
        return {kind: path for kind, path in files.items() if path is not None}

    def weights_bytes(self) -> int:
        """Return the bytes of a process's copy of everything frozen, on a GPU."""
        tower = {} if self.image_tower is None else self.image_tower.weights
        tensors = [*self.clip.tensors().values(), *tower.values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def open_store(self) -> FeatureStore:
        """Open the store of all encoded images, mapped."""
        return open_store(**self.files())

    def world(self, config: FederationConfig) -> World:
        return world_of(config, self.clip, self.class_names, image_tower=self.image_tower)

    def to(self, device: torch.device | str) -> "Prepared":
        """Return the same with all tensors on a device."""
        return replace(self, clip=self.clip.to(device), image_tower=self.image_tower and self.image_tower.to(device))


@disk_errors(doing="used")
def prepare(*configs: FederationConfig) -> Prepared:
    """Load backbone and dataset, check that every federation is possible with them, encode the missing images.

    All configs share the first one's dataset, backbone and ``features``.

    Raises:
        ConfigError, DataError: a setting that does not fit the data or the backbone, and what would.
        BackboneError: a CLIP that cannot be had.
        StorageError: a disk that refuses.
    """
    prepared, missing = _checked(configs, features_folder(configs[0]))
    for work in missing:
        encode_missing(*work)
    return prepared


@disk_errors(doing="used")
def check_possible(*configs: FederationConfig) -> None:
    """Raise what ``prepare`` raises if a federation is not possible. Encodes nothing, and writes no file."""
    _checked(configs, None)


def _checked(configs: Sequence[FederationConfig], stored: Path | None) -> tuple[Prepared, list[Encoding]]:
    """Return the inputs, and what has to be encoded for them; text features are ``stored`` there, if anywhere."""
    config = configs[0]
    check_one_backbone(configs)
    for candidate in configs:
        check_sets(candidate)
    dataset, backbone = load_inputs(config)
    others = load_others(*configs)
    folder = features_folder(config)
    lists: dict[tuple[str, ...], str] = {}
    for candidate in configs:
        lists |= all_texts(candidate, dataset.class_names)
        for other in candidate.evaluation.transfer:
            with errors_of(of_transfer(other)):
                lists |= {texts: name for name, texts in wanted_texts(candidate, others[other].class_names).items()}
    clip = _frozen_clip(backbone, dataset, lists, config.storage, stored)
    warn_of_equal_prompts(backbone, dataset, clip.classes)
    needs = reduce(or_, (load_method(candidate.method).needs_of(candidate) for candidate in configs))
    image_tower = backbone.image_tower if Needs.PIXELS in needs else None
    elsewhere = {name: config_of(config, name) for name in others}
    wanted = {
        name: wanted_files(backbone, other, elsewhere[name].features, needs, folder) for name, other in others.items()
    }
    ready = {
        name: OtherDataset.of(backbone, other, config.storage, stored, wanted[name]) for name, other in others.items()
    }
    for candidate in configs:
        check_worlds(candidate, clip, dataset.class_names, ready, image_tower=image_tower)
    samples = Samples.of_dataset(dataset)
    by_key = {_partition_key(candidate): candidate for candidate in configs}
    partitions = {key: partition_for(candidate, samples) for key, candidate in by_key.items()}
    for candidate in configs:
        check_public(candidate, partitions[_partition_key(candidate)])
    files = wanted_files(backbone, dataset, config.features, needs, folder)
    prepared = Prepared(
        clip=clip,
        class_names=dataset.class_names,
        domain_names=dataset.domain_names,
        image_tower=image_tower,
        others=ready,
        **{file.kind: file.path for file in files},
    )
    of_others = [(elsewhere[name], backbone, other, wanted[name]) for name, other in others.items()]
    return prepared, [(config, backbone, dataset, files), *of_others]


def _partition_key(config: FederationConfig) -> Hashable:
    """Return the inputs of ``partition_for``: the many federations of a sweep mostly share a few partitions."""
    return config.clients, config.partition, config.seed


def _frozen_clip(
    backbone: Backbone,
    dataset: Dataset,
    lists: Mapping[tuple[str, ...], str],
    storage: StorageConfig,
    folder: Path | None,
) -> FrozenClip:
    """Return CLIP's text side with the embedded tokens of the ``lists`` of texts, which are given with their names."""
    text = text_features(backbone, dataset, storage, folder)
    tower = backbone.tower
    weights = {name: tensor for name, tensor in tower.weights.items() if name != "token_embedding.weight"}
    return FrozenClip(
        tower=TextTower(weights, tower.layers, tower.heads, tower.quick_gelu),
        classes=ClassTokens(text["start"], text["suffix"], text["lengths"]),
        zero_shot_text=text["zero_shot_text"],
        logit_scale=backbone.logit_scale,
        texts={texts_key(texts): _embedded(backbone, texts, lists[texts], storage, folder) for texts in sorted(lists)},
    )


def _embedded(
    backbone: Backbone, texts: Sequence[str], name: str, storage: StorageConfig, folder: Path | None
) -> ClassTokens:
    with errors_of(name):
        return embedded_texts(backbone, texts, storage, folder)
