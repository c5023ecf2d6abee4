"""Caltech101, 100 classes of objects: like CoOp's, without the background class and the second copy of the faces.

Source: L. Fei-Fei, R. Fergus, P. Perona, *Learning Generative Visual Models from Few Training Examples*, 2004.
"""

from pathlib import Path

from promptfleet.data.dataset import Dataset
from promptfleet.data.image_files import ListedImage, image_dataset
from promptfleet.data.image_folders import scan_images
from promptfleet.data.split_files import read_coop_split
from promptfleet.errors import DataError

TEMPLATES = ("a photo of a {}.",)
IGNORED = ("BACKGROUND_Google", "Faces_easy")
RENAMED = {"Faces": "face", "Leopards": "leopard", "Motorbikes": "motorbike", "airplanes": "airplane"}


def load(folder: Path) -> Dataset:
    """Load CoOp's split; without its file all images, of no part, since there is no published split."""
    split, images = folder / "split_zhou_Caltech101.json", folder / "101_ObjectCategories"
    by_file = split.exists()
    listed, class_names = read_coop_split(split) if by_file else _all_images(images)
    return image_dataset("caltech101", images, listed, class_names, TEMPLATES, listed=by_file)


def _all_images(images: Path) -> tuple[list[ListedImage], tuple[str, ...]]:
    tree = scan_images(images)
    tree.log_left_out()
    classes = [name for name in tree.subfolders() if name not in IGNORED]
    files, _ = tree.by_folder(depth=1)
    listed = []
    for label, name in enumerate(classes):
        if name not in files:
            left_out = tree.describe_left_out(name)
            raise DataError(f"{images / name}: the class has no image{left_out and f' (left out: {left_out})'}")
        listed += [ListedImage(f"{name}/{file}", label, images) for file in files[name]]
    return listed, tuple(RENAMED.get(name, name) for name in classes)
