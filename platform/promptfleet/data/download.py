"""Download of a dataset through torchvision into its folder."""

import os
import shutil
import socket
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from promptfleet.data.sources import SOURCES, how_to_get
from promptfleet.disks import check_writable
from promptfleet.errors import DataError

STALLED_S = 60  # without a byte from the server
# Dataset -> what torchvision makes under its root, and where that belongs in the dataset's folder.
MADE = {
    "cifar10": ("cifar-10-batches-py", "cifar-10-batches-py"),
    "cifar100": ("cifar-100-python", "cifar-100-python"),
    "caltech101": ("caltech101", "."),
    "oxford_pets": ("oxford-iiit-pet", "."),
    "oxford_flowers": ("flowers-102", "."),
    "food101": ("food-101", "."),
    "dtd": ("dtd/dtd", "."),
}


def download_dataset(name: str, root: str | Path, folder: str | None = None) -> None:
    """Make sure that dataset ``name`` has its folder under ``root``; progress goes to stderr.

    A folder that is there, under any name the dataset is read from, is left as it is. The new one appears complete.

    Raises:
        DataError: if it cannot be fetched; says where to get it instead.
        StorageError: ``root`` cannot be written.
    """
    if name not in SOURCES:
        return
    source, root = SOURCES[name], Path(root)
    names = [folder] if folder else source.folders
    if any((root / candidate).is_dir() for candidate in names):
        return
    target = root / names[0]
    if not source.fetcher:
        raise DataError(f"{name} cannot be downloaded from here; {how_to_get(name, target)}")
    check_writable(root, named=f"data.root={root}")
    made, belongs = MADE[name]
    try:
        with _scratch_folder(root) as scratch:
            _fetch(source.fetcher, scratch)
            for archive in [*(scratch / made).glob("*.gz"), *(scratch / made).glob("*.tgz")]:
                archive.unlink()
            complete = scratch / "complete"
            (complete / belongs).parent.mkdir(parents=True, exist_ok=True)
            os.replace(scratch / made, complete / belongs)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(complete, target)
    except Exception as error:  # torchvision and what it calls raise nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{name} could not be downloaded ({reason}); {how_to_get(name, target)}") from None


def _fetch(fetcher: str, scratch: Path) -> None:
    """Download and unpack; torchvision checks the archive's md5 sum."""
    import torchvision.datasets  # here: it takes seconds to import

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALLED_S)
    try:
        with redirect_stdout(sys.stderr):
            getattr(torchvision.datasets, fetcher)(root=str(scratch), download=True)
    finally:
        socket.setdefaulttimeout(before)


@contextmanager
def _scratch_folder(root: Path) -> Iterator[Path]:
    """Give a hidden folder on the same disk and remove it afterwards."""
    scratch = root / f".download-{uuid.uuid4().hex}"
    scratch.mkdir(parents=True)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
