"""Files of weights, recognized by their first bytes: archives of torch, safetensors, and torch's format before 1.6."""

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from promptfleet.clip.torch_archive import read_archive
from promptfleet.pickle_outline import check_pickle

_OLD_PICKLES = 5  # magic number, version, about the machine, the value, the order of its storages


def read_file(path: Path) -> tuple[Any, bool]:
    """Read the content of the file without executing any of it; also return True if it is of TorchScript.

    Raises:
        pickle.UnpicklingError: it refers to more than tensors and plain values, or is no file of weights.
        Exception: it is damaged, which can show in any part of any reader.
    """
    with open(path, "rb") as file:
        beginning = file.read(9)
        file.seek(0)
        if beginning.startswith(b"PK"):
            return read_archive(path)
        if beginning[8:] == b"{":
            return load_file(path), False
        if not beginning.startswith(b"\x80"):
            raise pickle.UnpicklingError
        for _ in range(_OLD_PICKLES):
            check_pickle(file, path.stat().st_size)
        file.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols
            return torch.load(file, map_location="cpu", weights_only=True), False
