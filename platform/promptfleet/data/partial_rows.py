"""An array that is being made, part by part and in any order, on disk: what was put survives a kill."""

import json
import os
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from promptfleet.disks import disk_errors
from promptfleet.errors import DataError


class PartialRows:
    """``[samples, ...]`` of one type in a folder of its own; memory holds one part.

    A journal beside the rows says which parts are complete, with a checksum of each: whoever opens the folder again
    goes on from there, and a part that was torn by a power cut counts as missing.
    """

    def __init__(self, folder: Path, samples: int, dtype: str):
        self._folder, self._samples, self._dtype = folder, samples, np.dtype(dtype)
        self._shape: tuple[int, ...] | None = None  # of one row
        self._done: set[range] = set()
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._rows, self._journal = folder / "rows", folder / "journal.jsonl"
            self._rows.touch()
            for part, shape in self._intact():
                self._done.add(part)
                self._shape = shape

    def has(self, part: range) -> bool:
        return part in self._done

    def put(self, part: range, rows: np.ndarray) -> None:
        """Keep ``rows [len(part), ...]``; on disk when this returns. Raises DataError: NaN or Inf, or a full disk."""
        rows = np.ascontiguousarray(rows, dtype=self._dtype)
        if not np.isfinite(rows).all():
            raise DataError(
                f"features of images {part.start}..{part.stop - 1} have a NaN or Inf as {self._dtype}; the backbone's "
                f"weights or the images are damaged"
            )
        entry = {"start": part.start, "stop": part.stop, "shape": rows.shape[1:], "checksum": zlib.crc32(rows)}
        with disk_errors(self._folder):
            with open(self._rows, "r+b") as file:
                file.seek(part.start * rows[0].nbytes)
                file.write(rows.data)
                file.flush()
                os.fsync(file.fileno())
            with open(self._journal, "a") as file:
                file.write("\n" + json.dumps(entry))
                file.flush()
                os.fsync(file.fileno())
        self._done.add(part)
        self._shape = rows.shape[1:]

    def array(self) -> np.ndarray:
        """All rows, mapped. Raises DataError if some were never put."""
        if sum(map(len, self._done)) != self._samples:
            raise DataError(f"{self._folder}: {sum(map(len, self._done))} of {self._samples} rows are there")
        return np.memmap(self._rows, dtype=self._dtype, mode="r", shape=(self._samples, *self._shape))

    def delete(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _intact(self) -> Iterator[tuple[range, tuple[int, ...]]]:
        """The parts of the journal whose rows are as they were put."""
        if not self._journal.exists():
            return
        with open(self._rows, "rb") as file:
            for line in self._journal.read_bytes().splitlines():
                try:
                    entry = json.loads(line)
                    part, shape = range(entry["start"], entry["stop"]), tuple(entry["shape"])
                except (ValueError, KeyError, TypeError):
                    continue  # torn
                row_bytes = int(np.prod(shape)) * self._dtype.itemsize
                file.seek(part.start * row_bytes)
                if zlib.crc32(file.read(len(part) * row_bytes)) == entry["checksum"]:
                    yield part, shape
