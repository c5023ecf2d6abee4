"""Datasets by name, one file each. A new one is a module with ``load(root) -> Dataset`` and a line here."""

import difflib
import importlib
from pathlib import Path

from promptfleet.data.dataset import Dataset
from promptfleet.errors import ConfigError

MODULES = {"digits": "promptfleet.data.datasets.digits"}


def load_dataset(name: str, root: str | Path) -> Dataset:
    """Load the dataset called ``name``; ``root`` is the folder with one subfolder per dataset.

    Raises:
        ConfigError: if there is no dataset of that name; says which one is nearest.
        DataError: if its files are missing or damaged.
    """
    if name not in MODULES:
        nearest = difflib.get_close_matches(name, MODULES, n=1, cutoff=0.4)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"known datasets: {', '.join(MODULES)}"
        raise ConfigError(f"dataset={name}: there is no such dataset; {hint}")
    return importlib.import_module(MODULES[name]).load(Path(root))
