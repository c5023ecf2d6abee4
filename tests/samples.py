"""Images for the tests of datasets: real samples beside the checkout, and small folders in the same layouts."""

import os
import pickle
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from promptfleet.data.dataset import Dataset
from promptfleet.data.datasets import load_dataset
from promptfleet.errors import DataError

SAMPLES = Path(os.environ.get("PROMPTFLEET_SAMPLES", Path(__file__).parents[2] / "shared" / "data"))
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason=f"the sample images are not at {SAMPLES}")


def write_image(path: Path, seed: int = 0, *, mode: str = "RGB", side: int = 8, format: str | None = None) -> None:
    """Noise, another one for each seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise).convert(mode).save(path, format=format)


def write_images(folder: Path, paths: Iterable[str]) -> None:
    for seed, path in enumerate(paths):
        write_image(folder / path, seed)


def write_dtd(root: Path, classes: Sequence[str] = ("banded", "polka-dotted", "veined"), per_part: int = 2) -> Path:
    """A DTD with ``per_part`` images of each class in each part, without CoOp's split."""
    folder = root / "dtd"
    (folder / "labels").mkdir(parents=True)
    number = 0
    for part in ("train1", "val1", "test1"):
        paths = [f"{name}/{name}_{number + index:04d}.jpg" for name in classes for index in range(per_part)]
        number += per_part
        write_images(folder / "images", paths)
        (folder / "labels" / f"{part}.txt").write_text("".join(f"{path}\n" for path in paths))
    return folder


def write_domainnet(
    root: Path,
    classes: Sequence[str] = ("zebra", "bird", "wine_glass"),
    per_part: int = 2,
    *,
    prefix: str = "domainnet/",
    dtype: type = np.str_,
    protocol: int = pickle.DEFAULT_PROTOCOL,
) -> Path:
    """A DomainNet with ``per_part`` images of each class in each domain and part; ``prefix`` begins the paths."""
    folder = root / "domainnet"
    for domain in ("clipart", "infograph", "painting", "quickdraw", "real", "sketch"):
        for part in ("train", "test"):
            rows = [(f"{domain}/{name}/{part}_{index}.jpg", name) for name in classes for index in range(per_part)]
            write_images(folder, [path for path, _ in rows])
            pair = (
                np.array([prefix + path for path, _ in rows], dtype=dtype),
                np.array([name for _, name in rows], dtype=dtype),
            )
            (folder / f"{domain}_{part}.pkl").write_bytes(pickle.dumps(pair, protocol=protocol))
    return folder


def paths_of(dataset: Dataset) -> list[str]:
    """Each sample's file, for datasets of files."""
    return list(dataset.read_image.args[0])


def refusal(name: str, root: Path, folder: str | None = None) -> str:
    with pytest.raises(DataError) as error:
        load_dataset(name, root, folder)
    assert "\n" not in str(error.value)
    return str(error.value)
