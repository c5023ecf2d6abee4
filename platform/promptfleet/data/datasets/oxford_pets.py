"""Oxford-IIIT Pets, 37 breeds of cats and dogs.

Source: O. Parkhi, A. Vedaldi, A. Zisserman, C. Jawahar, *Cats and Dogs*, CVPR 2012.
"""

import posixpath
from pathlib import Path

from promptfleet.data.dataset import Dataset, Part
from promptfleet.data.image_files import ListedImage, image_dataset
from promptfleet.data.split_files import read_coop_split, read_lines
from promptfleet.errors import DataError

TEMPLATES = ("a photo of a {}, a type of pet.",)


def load(folder: Path) -> Dataset:
    """Load CoOp's split; without its file the official one, which has no validation part."""
    split = folder / "split_zhou_OxfordPets.json"
    listed, class_names = read_coop_split(split) if split.exists() else _official(folder / "annotations")
    return image_dataset("oxford_pets", folder / "images", listed, class_names, TEMPLATES)


def _official(annotations: Path) -> tuple[list[ListedImage], tuple[str, ...]]:
    """Load the official split: lines ``Abyssinian_100 1 1 1`` are image, class id from 1, species and breed.

    Ids with gaps are renumbered from 0.
    """
    rows, breeds = [], {}
    for part, path in ((Part.TRAIN, annotations / "trainval.txt"), (Part.TEST, annotations / "test.txt")):
        for number, line in read_lines(path):
            image, *numbers = line.split()
            breed = posixpath.normpath(image).rpartition("_")[0].lower()  # also of ./Abyssinian_100
            if not breed or len(numbers) != 3 or not numbers[0].isdecimal() or int(numbers[0]) < 1:
                raise DataError(f"{path}:{number}: {line!r} should be Breed_number, class id >= 1, species, breed id")
            class_id = int(numbers[0])
            if breeds.setdefault(class_id, breed) != breed:
                raise DataError(
                    f"{path}:{number}: class id {class_id} is {breed!r}, before it was {breeds[class_id]!r}"
                )
            rows.append((f"{image}.jpg", class_id, path, part))
    order = {class_id: label for label, class_id in enumerate(sorted(breeds))}
    images = [ListedImage(image, order[class_id], path, part) for image, class_id, path, part in rows]
    return images, tuple(breeds[class_id] for class_id in order)
