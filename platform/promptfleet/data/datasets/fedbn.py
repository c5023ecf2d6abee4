"""DomainNet's ten classes and Office-Caltech10 as FedBN publishes them: two pickles per domain.

Each pickle is a pair of arrays, the images' paths (from the data root) and their class names. Class names are a list
here, in the order of FedBN's label table. Differs: pFedMoAP's code iterates a Python set of them, which shuffles the
prompts against the labels.
Source: X. Li et al., *FedBN*, ICLR 2021; X. Peng et al., *Moment Matching for Multi-Source Domain Adaptation*, 2019;
B. Gong et al., *Geodesic Flow Kernel for Unsupervised Domain Adaptation*, 2012.
"""

from pathlib import Path
from typing import Any

import numpy as np

from promptfleet.data.closed_pickle import load_pickle
from promptfleet.data.dataset import Dataset, Part
from promptfleet.data.image_files import ListedImage, image_dataset
from promptfleet.errors import DataError

TEMPLATES = ("a photo of a {}.",)
DOMAINNET_DOMAINS = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")
DOMAINNET_CLASSES = (
    "bird",
    "feather",
    "headphones",
    "ice_cream",
    "teapot",
    "tiger",
    "whale",
    "windmill",
    "wine_glass",
    "zebra",
)
OFFICE_DOMAINS = ("amazon", "caltech", "dslr", "webcam")
OFFICE_CLASSES = (
    "back_pack",
    "bike",
    "calculator",
    "headphones",
    "keyboard",
    "laptop_computer",
    "monitor",
    "mouse",
    "mug",
    "projector",
)


def load_domainnet(folder: Path) -> Dataset:
    return _load("domainnet", folder, DOMAINNET_DOMAINS, DOMAINNET_CLASSES)


def load_office_caltech10(folder: Path) -> Dataset:
    return _load("office_caltech10", folder, OFFICE_DOMAINS, OFFICE_CLASSES)


def _load(name: str, folder: Path, domains: tuple[str, ...], class_names: tuple[str, ...]) -> Dataset:
    labels = {class_name: label for label, class_name in enumerate(class_names)}
    images = []
    for domain, domain_name in enumerate(domains):
        for part in (Part.TRAIN, Part.TEST):
            file = folder / f"{domain_name}_{part.name.lower()}.pkl"
            paths, texts = _read_pair(file)
            for row, text in enumerate(texts):
                if text not in labels:
                    raise DataError(f"{file}: entry {row} is of class {text!r}; there are: {', '.join(class_names)}")
            images += [
                ListedImage(path, labels[text], file, part, domain)
                for path, text in zip(_from_folder(folder, paths), texts, strict=True)
            ]
    return image_dataset(name, folder, images, class_names, TEMPLATES, domains)


def _read_pair(file: Path) -> tuple[list[str], list[str]]:
    """Return paths and class names, equally many."""
    value = load_pickle(file)
    value = list(value) if isinstance(value, np.ndarray) and value.ndim else value
    pair = [_texts(column) for column in value] if isinstance(value, (tuple, list)) else []
    if len(pair) != 2 or None in pair or len(pair[0]) != len(pair[1]):
        raise DataError(f"{file}: should be a pair of equally long arrays of text, image paths and class names")
    return pair[0], pair[1]


def _texts(column: Any) -> list[str] | None:
    """Return the column as strings; None if it is not one."""
    values = column.tolist() if isinstance(column, np.ndarray) else column
    if not isinstance(values, (list, tuple)):
        return None
    try:
        values = [value.decode() if isinstance(value, bytes) else value for value in values]
    except ValueError:
        return None
    return values if all(isinstance(value, str) for value in values) else None


def _from_folder(folder: Path, paths: list[str]) -> list[str]:
    """Return paths within the dataset's folder; FedBN's pickles put its name first."""
    if not paths or (folder / paths[0]).exists():
        return paths
    return [path.partition("/")[2] or path for path in paths]
