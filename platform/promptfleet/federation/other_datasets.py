"""Other datasets, whose test parts models are tested on with their class names: nothing of them is trained on."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from promptfleet.clip.backbone import Backbone
from promptfleet.clip.frozen import FrozenClip
from promptfleet.clip.prompt_layout import ClassTokens
from promptfleet.config import FederationConfig, StorageConfig
from promptfleet.data.dataset import Dataset, Part
from promptfleet.data.datasets import load_dataset
from promptfleet.data.download import download_dataset
from promptfleet.data.feature_store import FeatureStore, open_store
from promptfleet.errors import ConfigError, DataError
from promptfleet.features.encoding import Wanted
from promptfleet.features.text_features import text_features


@dataclass(frozen=True)
class OtherDataset:
    """Names, tokens and zero-shot text features of a dataset's classes, and the files of its feature store by kind."""

    class_names: tuple[str, ...]
    classes: ClassTokens
    zero_shot_text: Tensor
    files: Mapping[str, Path]

    @classmethod
    def of(
        cls, backbone: Backbone, dataset: Dataset, storage: StorageConfig, folder: Path | None, files: Iterable[Wanted]
    ) -> "OtherDataset":
        """Return the dataset for the backbone; ``files`` are those that its images are encoded into.

        storage and folder are those of ``text_features``.
        """
        text = text_features(backbone, dataset, storage, folder)
        return cls.from_tensors(text, dataset.class_names, {file.kind: file.path for file in files})

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], class_names: tuple[str, ...], files: Mapping[str, Path]
    ) -> "OtherDataset":
        classes = ClassTokens(tensors["start"], tensors["suffix"], tensors["lengths"])
        return cls(class_names, classes, tensors["zero_shot_text"], files)

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name, see ``from_tensors``."""
        names = ("start", "suffix", "lengths")
        return {**{name: getattr(self.classes, name) for name in names}, "zero_shot_text": self.zero_shot_text}

    def clip(self, clip: FrozenClip) -> FrozenClip:
        """Return the frozen CLIP for the classes of this dataset; ``clip`` is that of others, on any device."""
        device = clip.zero_shot_text.device
        return replace(clip, classes=self.classes.to(device), zero_shot_text=self.zero_shot_text.to(device))

    def test_part(self) -> tuple[FeatureStore, np.ndarray]:
        """Return the store of its encoded images, mapped, and the indices of the published test samples."""
        store = open_store(**self.files)
        return store, np.flatnonzero(store.official == Part.TEST)


def config_of(config: FederationConfig, name: str) -> FederationConfig:
    """Return the configuration with another dataset in its usual folder, in place of the one that clients have."""
    data = config.data.model_copy(update={"folder": None})
    features = config.features.model_copy(update={"views": 0})
    return config.model_copy(update={"dataset": name, "data": data, "features": features})


def download_datasets(config: FederationConfig) -> None:
    """Download the dataset of the clients and those of ``evaluation.transfer``, as far as their folders are missing."""
    download_dataset(config.dataset, config.data.root, config.data.folder)
    for name in config.evaluation.transfer:
        download_dataset(name, config.data.root)


def load_others(*configs: FederationConfig) -> dict[str, Dataset]:
    """Return the datasets of ``evaluation.transfer`` by name.

    Raises:
        ConfigError: one is unknown, or has no published test part.
        DataError: its files are missing or damaged.
    """
    names = dict.fromkeys(name for config in configs for name in config.evaluation.transfer)
    return {name: _loaded(name, configs[0].data.root) for name in names}


def _loaded(name: str, root: str) -> Dataset:
    try:
        dataset = load_dataset(name, root)
    except (ConfigError, DataError) as error:
        raise type(error)(f"evaluation.transfer: {error}") from None
    if dataset.official is None or not (dataset.official == Part.TEST).any():
        raise ConfigError(f"evaluation.transfer: dataset {name} has no published test part; leave it out")
    return dataset
