"""Oxford Flowers, 102 species.

Source: M.-E. Nilsback, A. Zisserman, *Automated Flower Classification over a Large Number of Classes*, 2008.
"""

from pathlib import Path

import numpy as np

from promptfleet.data.dataset import Dataset, Part
from promptfleet.data.image_files import ListedImage, image_dataset
from promptfleet.data.matlab_file import read_numbers
from promptfleet.data.regular_files import open_regular
from promptfleet.data.split_files import read_coop_split
from promptfleet.errors import DataError

TEMPLATES = ("a photo of a {}, a type of flower.",)
PARTS = {"trnid": Part.TRAIN, "valid": Part.VAL, "tstid": Part.TEST}


def load(folder: Path) -> Dataset:
    """Load CoOp's split; without its file the official one, which is another split of the same images."""
    split = folder / "split_zhou_OxfordFlowers.json"
    listed, class_names = read_coop_split(split) if split.exists() else _official(folder)
    return image_dataset("oxford_flowers", folder / "jpg", listed, class_names, TEMPLATES)


def _official(folder: Path) -> tuple[list[ListedImage], tuple[str, ...]]:
    """Load the official split: ``setid.mat`` numbers the images of each part from 1, ``imagelabels.mat`` has class ids.

    Class ids without an image are left out, and the others renumbered from 0.
    """
    labels_file, parts_file = folder / "imagelabels.mat", folder / "setid.mat"
    (class_ids,), part_ids = _read_mat(labels_file, "labels"), _read_mat(parts_file, *PARTS)
    rows = []
    for part, numbers in zip(PARTS.values(), part_ids, strict=True):
        for number in numbers.tolist():
            if not 1 <= number <= len(class_ids):
                raise DataError(f"{parts_file}: has image {number}, but {labels_file.name} has {len(class_ids)} labels")
            class_id = int(class_ids[number - 1])
            if not 1 <= class_id <= len(NAMES):
                raise DataError(f"{labels_file}: image {number} is of class {class_id}, should be 1 to {len(NAMES)}")
            rows.append((f"image_{number:05d}.jpg", class_id, part))
    order = {class_id: label for label, class_id in enumerate(sorted({class_id for _, class_id, _ in rows}))}
    images = [ListedImage(image, order[class_id], parts_file, part) for image, class_id, part in rows]
    return images, tuple(NAMES[class_id - 1] for class_id in order)


def _read_mat(path: Path, *names: str) -> list[np.ndarray]:
    """Return whole numbers of a MATLAB file, each variable as int64 ``[n]``."""
    try:
        with open_regular(path) as file:
            content = read_numbers(file.read())
        return [_whole_numbers(content[name]) for name in names]
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such split file, and no split_zhou_OxfordFlowers.json either") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError) as error:
        raise DataError(f"{path}: should be a MATLAB file with {', '.join(names)} ({error})") from None


def _whole_numbers(values: np.ndarray) -> np.ndarray:
    """Return MATLAB's numbers, which may be stored as floats, as int64 ``[n]``."""
    with np.errstate(invalid="ignore"):  # NaN and numbers beyond int64, which are then not what they were
        numbers = values.astype(np.int64)
    if (numbers != values).any():
        raise ValueError("not whole numbers")
    return numbers


# By class id from 1, as the authors' page orders them.
NAMES = tuple(
    name.strip()
    for name in """
pink primrose, hard-leaved pocket orchid, canterbury bells, sweet pea, english marigold, tiger lily, moon orchid, bird
of paradise, monkshood, globe thistle, snapdragon, colt's foot, king protea, spear thistle, yellow iris, globe-flower,
purple coneflower, peruvian lily, balloon flower, giant white arum lily, fire lily, pincushion flower, fritillary, red
ginger, grape hyacinth, corn poppy, prince of wales feathers, stemless gentian, artichoke, sweet william, carnation,
garden phlox, love in the mist, mexican aster, alpine sea holly, ruby-lipped cattleya, cape flower, great masterwort,
siam tulip, lenten rose, barbeton daisy, daffodil, sword lily, poinsettia, bolero deep blue, wallflower, marigold,
buttercup, oxeye daisy, common dandelion, petunia, wild pansy, primula, sunflower, pelargonium, bishop of llandaff,
gaura, geranium, orange dahlia, pink-yellow dahlia, cautleya spicata, japanese anemone, black-eyed susan, silverbush,
californian poppy, osteospermum, spring crocus, bearded iris, windflower, tree poppy, gazania, azalea, water lily,
rose, thorn apple, morning glory, passion flower, lotus, toad lily, anthurium, frangipani, clematis, hibiscus,
columbine, desert-rose, tree mallow, magnolia, cyclamen, watercress, canna lily, hippeastrum, bee balm, ball moss,
foxglove, bougainvillea, camellia, mallow, mexican petunia, bromelia, blanket flower, trumpet creeper, blackberry lily
""".replace("\n", " ").split(",")
)
