"""Rows of numbers that a server keeps outside its state: one file for each kind in the federation's folder."""

import os
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from promptfleet.config import FederationConfig
from promptfleet.disks import disk_errors
from promptfleet.errors import ConfigError, DataError, FederationError, first_line
from promptfleet.methods import load_method
from promptfleet.methods.protocol import KeepsRows

FOLDER = "rows"


class KeptRows:
    """``RowStore`` of a federation. Its folder exists; a kind's file is opened when it is first needed."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._opened: dict[str, int] = {}

    def write(self, kind: str, start: int, rows: Tensor) -> None:
        numbers = _bytes_of(rows).reshape(-1)
        file, offset = self._file(kind), start * rows[0].nbytes
        with disk_errors(self._path(kind)):
            while len(numbers):
                written = os.pwrite(file, numbers, offset)
                numbers, offset = numbers[written:], offset + written
            os.fsync(file)

    def read(self, kind: str, ids: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        rows = torch.empty(len(ids), *shape, dtype=dtype)
        if len(ids) == 0:
            return rows
        numbers = _bytes_of(rows)
        starts = [0, *((ids.diff() != 1).nonzero().flatten() + 1).tolist()]  # starts of consecutive rows, read at once
        for start, end, first in zip(starts, [*starts[1:], len(ids)], ids[starts].tolist(), strict=True):
            self._fill(kind, numbers[start:end].reshape(-1), first * numbers.shape[1])
        return rows

    def check(self, kind: str, count: int, row_bytes: int) -> None:
        there = os.fstat(self._file(kind)).st_size if count else 0
        if there < count * row_bytes:
            raise DataError(
                f"{self._path(kind)}: cut off or of another federation ({there} bytes, the server's state needs "
                f"{count * row_bytes})"
            )

    def _fill(self, kind: str, numbers: np.ndarray, offset: int) -> None:
        while len(numbers):
            with disk_errors(self._path(kind), doing="read"):
                read = os.preadv(self._file(kind), [numbers], offset)
            if not read:
                raise DataError(f"{self._path(kind)}: cut off after {offset} bytes")
            numbers, offset = numbers[read:], offset + read

    def _file(self, kind: str) -> int:
        if kind not in self._opened:
            try:
                self._opened[kind] = file = os.open(self._path(kind), os.O_RDWR | os.O_CREAT, 0o666)
            except OSError as error:
                raise FederationError(
                    f"{self._path(kind)}: cannot be opened where the server runs ({first_line(error)}); "
                    "what it keeps on disk takes a storage.path that every node sees"
                ) from None
            weakref.finalize(self, os.close, file)
            _sync_folder(self._folder)
        return self._opened[kind]

    def _path(self, kind: str) -> Path:
        return self._folder / kind


def rows_folder(config: FederationConfig, folder: str | Path | None) -> Path | None:
    """Return the folder for the rows of the federation in ``folder``; None if its method keeps none.

    Raises ConfigError: there is no ``folder``.
    """
    method = load_method(config.method)
    if not (isinstance(method, KeepsRows) and method.keeps_rows(config)):
        return None
    if folder is None:
        raise ConfigError(
            f"method={config.method}: a pool on disk needs a folder of the federation: run_federation(..., folder=...)"
        )
    return Path(folder).absolute() / FOLDER


def make_rows(path: Path | None) -> None:
    """Make the folder from ``rows_folder``. Raises StorageError."""
    if path is not None:
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)


def clear_rows(folder: Path) -> None:
    """Remove the rows of a federation in ``folder``."""
    for path in (folder / FOLDER).glob("*"):
        path.unlink()


def _bytes_of(rows: Tensor) -> np.ndarray:
    """Return ``[rows, bytes]``, the same memory."""
    return rows.flatten(1).view(torch.uint8).numpy()


def _sync_folder(folder: Path) -> None:
    """Write the names in the folder to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
