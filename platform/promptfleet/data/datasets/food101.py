"""Food101, 101 dishes.

Source: L. Bossard, M. Guillaumin, L. Van Gool, *Food-101: Mining Discriminative Components with Random Forests*, 2014.
"""

from pathlib import Path

from promptfleet.data.dataset import Dataset, Part
from promptfleet.data.image_files import image_dataset
from promptfleet.data.split_files import read_class_lists, read_coop_split

TEMPLATES = ("a photo of {}, a type of food.",)


def load(folder: Path) -> Dataset:
    """Load CoOp's split; without its file the official one, which has no validation part."""
    split, meta = folder / "split_zhou_Food101.json", folder / "meta"
    if split.exists():
        listed, class_names = read_coop_split(split)
    else:
        lists = {Part.TRAIN: meta / "train.txt", Part.TEST: meta / "test.txt"}
        listed, class_names = read_class_lists(lists, suffix=".jpg")
    return image_dataset("food101", folder / "images", listed, class_names, TEMPLATES)
