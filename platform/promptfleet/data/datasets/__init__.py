"""Datasets by name. A new one is a function ``load(folder) -> Dataset``, a line here and one in ``data/sources.py``."""

import importlib
import logging
from pathlib import Path

import numpy as np

from promptfleet.config import unknown_name
from promptfleet.data.dataset import Dataset
from promptfleet.data.sources import SOURCES, dataset_folder

logger = logging.getLogger(__name__)

LOADERS = {  # module of this package, function
    "digits": ("digits", "load"),
    "digits_styles": ("digits_styles", "load"),
    "cifar10": ("cifar", "load_cifar10"),
    "cifar100": ("cifar", "load_cifar100"),
    "caltech101": ("caltech101", "load"),
    "oxford_pets": ("oxford_pets", "load"),
    "oxford_flowers": ("oxford_flowers", "load"),
    "food101": ("food101", "load"),
    "dtd": ("dtd", "load"),
    "domainnet": ("fedbn", "load_domainnet"),
    "office_caltech10": ("fedbn", "load_office_caltech10"),
    "imagefolder": ("imagefolder", "load"),
}


def load_dataset(name: str, root: str | Path, folder: str | None = None) -> Dataset:
    """Load the dataset called ``name`` from its folder under ``root``, or from ``folder`` under ``root``.

    Raises:
        ConfigError: if there is no dataset of that name; says which one is nearest.
        DataError: if its files are missing or damaged.
    """
    if name not in LOADERS:
        raise unknown_name("dataset", name, LOADERS)
    module, function = LOADERS[name]
    load = getattr(importlib.import_module(f"promptfleet.data.datasets.{module}"), function)
    dataset = load(dataset_folder(name, root, folder)) if name in SOURCES else load()
    empty = np.setdiff1d(np.arange(len(dataset.class_names)), dataset.labels)
    if len(empty):
        some = ", ".join(dataset.class_names[label] for label in empty[:3])
        logger.warning("%s: %d of its %d classes have no image (%s)", name, len(empty), len(dataset.class_names), some)
    return dataset
