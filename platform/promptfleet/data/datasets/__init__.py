"""Datasets by name, one file each. A new one is a module with ``load(root) -> Dataset`` and a line here."""

import importlib
from pathlib import Path

from promptfleet.config import unknown_name
from promptfleet.data.dataset import Dataset

MODULES = {"digits": "promptfleet.data.datasets.digits"}


def load_dataset(name: str, root: str | Path) -> Dataset:
    """Load the dataset called ``name``; ``root`` is the folder with one subfolder per dataset.

    Raises:
        ConfigError: if there is no dataset of that name; says which one is nearest.
        DataError: if its files are missing or damaged.
    """
    if name not in MODULES:
        raise unknown_name("dataset", name, MODULES)
    return importlib.import_module(MODULES[name]).load(Path(root))
