"""Any folder of images: ``<split>/<class>/*``, or ``<domain>/<split>/<class>/*``, recognized by its first level."""

import logging
from pathlib import Path
from typing import NamedTuple

from promptfleet.data.dataset import Dataset, Part
from promptfleet.data.image_files import ListedImage, image_dataset
from promptfleet.data.image_folders import SUFFIXES, ImageTree, scan_images
from promptfleet.errors import DataError

logger = logging.getLogger(__name__)

TEMPLATES = ("a photo of a {}.",)
SPLITS = {"train": Part.TRAIN, "val": Part.VAL, "valid": Part.VAL, "validation": Part.VAL, "test": Part.TEST}
LAYOUT = "imagefolder reads <split>/<class>/* or <domain>/<split>/<class>/*, a split being train, val or test"


class _ClassFolder(NamedTuple):
    """Folder of one class; ``path`` counts from the dataset's folder, with slashes."""

    path: str
    class_name: str
    part: Part
    domain: int


def load(folder: Path) -> Dataset:
    """Load a folder whose class folders name the classes, in alphabetical order.

    A class may be missing in some splits and domains.

    Raises:
        DataError: if a level is neither split nor domain, a class has no image in any split, or the tree cannot be
            read (see ``scan_images``).
    """
    tree = scan_images(folder)
    tree.log_left_out()
    first_level = tree.subfolders()
    domains = () if SPLITS.keys() & set(first_level) else tuple(first_level)
    classes = [found for domain, name in enumerate(domains or ("",)) for found in _class_folders(tree, name, domain)]
    names = sorted({found.class_name for found in classes})
    labels = {name: label for label, name in enumerate(names)}
    files, outside = tree.by_folder(depth=3 if domains else 2)
    if outside:
        logger.warning("%s: %d images are in no class folder (such as %s)", folder, len(outside), outside[0])
    images = [
        ListedImage(f"{found.path}/{file}", labels[found.class_name], folder, found.part, found.domain)
        for found in classes
        for file in files.get(found.path, ())
    ]
    if empty := set(labels.values()) - {image.label for image in images}:
        raise _no_image(tree, names[min(empty)], classes)
    if not images:
        raise DataError(f"{folder}: imagefolder has no images: there is no class folder; {LAYOUT}")
    return image_dataset("imagefolder", folder, images, names, TEMPLATES, domains, listed=False)


def _class_folders(tree: ImageTree, domain_name: str, domain: int) -> list[_ClassFolder]:
    splits = tree.subfolders(domain_name)
    strangers = [name for name in splits if name not in SPLITS]
    if strangers or not splits:
        where = tree.root / domain_name / (strangers or [""])[0]
        raise DataError(f"{where}: {'is no split' if strangers else 'has no split'}; {LAYOUT}")
    return [
        _ClassFolder(f"{path}/{name}", name, SPLITS[split], domain)
        for split in splits
        for path in [f"{domain_name}/{split}" if domain_name else split]
        for name in tree.subfolders(path)
    ]


def _no_image(tree: ImageTree, class_name: str, classes: list[_ClassFolder]) -> DataError:
    left_out = tree.describe_left_out(*(found.path for found in classes if found.class_name == class_name))
    why = f"; left out there: {left_out}" if left_out else ""
    return DataError(
        f"{tree.root}: class {class_name!r} has no image in any split{why}; put one there or remove the class's "
        f"folders (images end in {', '.join(SUFFIXES)})"
    )
