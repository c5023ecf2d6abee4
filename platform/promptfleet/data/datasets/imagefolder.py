"""Any folder of images: ``<split>/<class>/*``, or ``<domain>/<split>/<class>/*``, found out from its first level."""

from pathlib import Path
from typing import NamedTuple

from promptfleet.data.dataset import Dataset, Part
from promptfleet.data.image_files import ListedImage, image_dataset
from promptfleet.data.image_folders import SUFFIXES, images_in, subfolders
from promptfleet.errors import DataError

TEMPLATES = ("a photo of a {}.",)
SPLITS = {"train": Part.TRAIN, "val": Part.VAL, "valid": Part.VAL, "validation": Part.VAL, "test": Part.TEST}
LAYOUT = "imagefolder reads <split>/<class>/* or <domain>/<split>/<class>/*, a split being train, val or test"


class _ClassFolder(NamedTuple):
    """``path`` counts from the dataset's folder, with slashes."""

    path: str
    class_name: str
    part: Part
    domain: int


def load(folder: Path) -> Dataset:
    """Classes are the names of all class folders, in alphabetical order; one may lack in some splits and domains.

    Raises:
        DataError: if a level is neither split nor domain, or a class has no image in any split.
    """
    first_level = subfolders(folder)
    domains = () if SPLITS.keys() & set(first_level) else tuple(first_level)
    classes = [found for domain, name in enumerate(domains or ("",)) for found in _class_folders(folder, name, domain)]
    names = sorted({found.class_name for found in classes})
    labels = {name: label for label, name in enumerate(names)}
    images = [
        ListedImage(f"{found.path}/{image}", labels[found.class_name], folder, found.part, found.domain)
        for found in classes
        for image in images_in(folder / found.path)
    ]
    if empty := set(labels.values()) - {image.label for image in images}:
        raise DataError(
            f"{folder}: class {names[min(empty)]!r} has no image in any split; put one there or remove the class's "
            f"folders (images end in {', '.join(SUFFIXES)})"
        )
    return image_dataset("imagefolder", folder, images, names, TEMPLATES, domains)


def _class_folders(folder: Path, domain_name: str, domain: int) -> list[_ClassFolder]:
    splits = subfolders(folder / domain_name)
    strangers = [name for name in splits if name not in SPLITS]
    if strangers or not splits:
        where = folder / domain_name / (strangers or [""])[0]
        raise DataError(f"{where}: {'is no split' if strangers else 'has no split'}; {LAYOUT}")
    return [
        _ClassFolder((Path(domain_name) / split / name).as_posix(), name, SPLITS[split], domain)
        for split in splits
        for name in subfolders(folder / domain_name / split)
    ]
