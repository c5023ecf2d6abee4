"""Caltech101, 100 classes of objects: without the background class and the second copy of the faces, as CoOp has it.

Source: L. Fei-Fei, R. Fergus, P. Perona, *Learning Generative Visual Models from Few Training Examples*, 2004.
"""

from pathlib import Path

from promptfleet.data.dataset import Dataset
from promptfleet.data.image_files import ListedImage, image_dataset
from promptfleet.data.image_folders import images_in, subfolders
from promptfleet.data.split_files import read_coop_split
from promptfleet.errors import DataError

TEMPLATES = ("a photo of a {}.",)
IGNORED = ("BACKGROUND_Google", "Faces_easy")
RENAMED = {"Faces": "face", "Leopards": "leopard", "Motorbikes": "motorbike", "airplanes": "airplane"}


def load(folder: Path) -> Dataset:
    """CoOp's split; without its file all images, of no part, for there is no published split."""
    split, images = folder / "split_zhou_Caltech101.json", folder / "101_ObjectCategories"
    listed, class_names = read_coop_split(split) if split.exists() else _all_images(images)
    return image_dataset("caltech101", images, listed, class_names, TEMPLATES)


def _all_images(images: Path) -> tuple[list[ListedImage], tuple[str, ...]]:
    classes = [name for name in subfolders(images) if name not in IGNORED]
    listed = []
    for label, name in enumerate(classes):
        found = images_in(images / name)
        if not found:
            raise DataError(f"{images / name}: the class has no image")
        listed += [ListedImage(f"{name}/{image}", label, images) for image in found]
    return listed, tuple(RENAMED.get(name, name) for name in classes)
