"""Sources of the datasets, and the folders they are read from."""

from dataclasses import dataclass
from pathlib import Path

from promptfleet.errors import DataError


@dataclass(frozen=True)
class Source:
    """Source of one dataset: its folders, their content, and a way to download them.

    ``folders`` are names under ``data.root``: the first is ours, the others are those of other loaders. ``needs`` is
    the content that the folder must have; ``fetcher`` the torchvision dataset that can download it, or empty.
    """

    folders: tuple[str, ...]
    needs: str
    where: str
    fetcher: str = ""


COOP = "https://github.com/KaiyangZhou/CoOp/blob/main/DATASETS.md"
FEDBN = "https://github.com/med-air/FedBN"
SOURCES = {
    "cifar10": Source(
        ("cifar10",),
        "cifar-10-batches-py/{data_batch_1..5,test_batch,batches.meta}",
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        "CIFAR10",
    ),
    "cifar100": Source(
        ("cifar100",),
        "cifar-100-python/{train,test,meta}",
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        "CIFAR100",
    ),
    "caltech101": Source(
        ("caltech101", "caltech-101"),
        "101_ObjectCategories/ and split_zhou_Caltech101.json (without it there is no published split)",
        f"https://data.caltech.edu/records/mzrjq-6wc02 (images) and {COOP} (split)",
        "Caltech101",
    ),
    "oxford_pets": Source(
        ("oxford_pets", "oxford-iiit-pet"),
        "images/ and split_zhou_OxfordPets.json or annotations/{trainval,test}.txt",
        f"https://www.robots.ox.ac.uk/~vgg/data/pets/ (images, annotations) and {COOP} (split)",
        "OxfordIIITPet",
    ),
    "oxford_flowers": Source(
        ("oxford_flowers", "flowers-102"),
        "jpg/ and split_zhou_OxfordFlowers.json or imagelabels.mat and setid.mat",
        f"https://www.robots.ox.ac.uk/~vgg/data/flowers/102/ (images, .mat files) and {COOP} (split)",
        "Flowers102",
    ),
    "food101": Source(
        ("food101", "food-101"),
        "images/ and split_zhou_Food101.json or meta/{train,test}.txt",
        f"http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz (images, lists) and {COOP} (split)",
        "Food101",
    ),
    "dtd": Source(
        ("dtd",),
        "images/ and split_zhou_DescribableTextures.json or labels/{train1,val1,test1}.txt",
        f"https://www.robots.ox.ac.uk/~vgg/data/dtd/ (images, lists) and {COOP} (split)",
        "DTD",
    ),
    "domainnet": Source(
        ("domainnet", "DomainNet"),
        "{clipart,infograph,painting,quickdraw,real,sketch}/ and {domain}_{train,test}.pkl of each",
        f"https://ai.bu.edu/M3SDA/ (images) and {FEDBN} (ten classes, pickles)",
    ),
    "office_caltech10": Source(
        ("office_caltech_10",),
        "{amazon,caltech,dslr,webcam}/ and {domain}_{train,test}.pkl of each",
        f"{FEDBN} (images, pickles)",
    ),
    "imagefolder": Source(
        ("imagefolder",),
        "<split>/<class>/ or <domain>/<split>/<class>/ with images, a split being train, val or test",
        "your own images; data.folder names another folder under data.root",
    ),
}


def dataset_folder(name: str, root: str | Path, folder: str | None = None) -> Path:
    """Return the folder of dataset ``name``: ``folder`` under ``root``, or one of its source's.

    Raises:
        DataError: if it is not there; says what to put there, and where to get it.
    """
    source, root = SOURCES[name], Path(root)
    candidates = [root / candidate for candidate in ([folder] if folder else source.folders)]
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    missing = candidates[0] if root.is_dir() else f"data.root {root}"
    fetch = "; --download can do it (train.py, tune.py, encode.py)" if source.fetcher else ""
    raise DataError(f"{missing}: there is no such folder; {how_to_get(name, candidates[0])}{fetch}")


def how_to_get(name: str, folder: Path) -> str:
    """Return the content that ``folder`` must have and its source: the second half of an error."""
    return f"put {SOURCES[name].needs} into {folder}, from {SOURCES[name].where} (see docs/data.md)"
