"""Describable Textures, 47 kinds of texture.

Source: M. Cimpoi, S. Maji, I. Kokkinos, S. Mohamed, A. Vedaldi, *Describing Textures in the Wild*, CVPR 2014.
"""

from pathlib import Path

from promptfleet.data.dataset import Dataset, Part
from promptfleet.data.image_files import image_dataset
from promptfleet.data.split_files import read_class_lists, read_coop_split

TEMPLATES = ("{} texture.",)


def load(folder: Path) -> Dataset:
    """Load CoOp's split; without its file the first of the ten official ones."""
    split, labels = folder / "split_zhou_DescribableTextures.json", folder / "labels"
    if split.exists():
        listed, class_names = read_coop_split(split)
    else:
        lists = {Part.TRAIN: "train1.txt", Part.VAL: "val1.txt", Part.TEST: "test1.txt"}
        listed, class_names = read_class_lists({part: labels / file for part, file in lists.items()})
    return image_dataset("dtd", folder / "images", listed, class_names, TEMPLATES)
