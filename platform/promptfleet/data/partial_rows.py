"""An array under construction on disk, part by part and in any order: stored parts survive a kill."""

import json
import math
import os
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from promptfleet.disks import disk_errors
from promptfleet.errors import DataError
from promptfleet.strict_json import Count, Counts, parse_json


class PartialRows:
    """Array ``[samples, ...]`` of one type in its own folder; memory holds one part.

    A journal next to the rows lists the complete parts, with a checksum of each: the next process that opens the folder
    continues from there. A part that was torn by a power cut counts as missing.
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
        """Store ``rows [len(part), ...]``; on disk when this returns. Raises DataError: NaN or Inf, or a full disk."""
        rows = np.ascontiguousarray(rows, dtype=self._dtype)
        if not np.isfinite(rows).all():
            raise DataError(
                f"features of images {part.start}..{part.stop - 1} have a NaN or Inf as {self._dtype}; the backbone's "
                f"weights or the images are damaged"
            )
        entry = {"start": part.start, "stop": part.stop, "shape": rows.shape[1:]}
        entry["checksum"] = _checksum(part, rows.shape[1:], rows)
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
        """Return all rows, mapped. Raises DataError if some were never put."""
        there = np.zeros(self._samples, dtype=bool)
        for part in self._done:
            there[part.start : part.stop] = True
        if not there.all():
            raise DataError(f"{self._folder}: {there.sum()} of {self._samples} rows are there")
        return np.memmap(self._rows, dtype=self._dtype, mode="r", shape=(self._samples, *self._shape))

    def delete(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _intact(self) -> Iterator[tuple[range, tuple[int, ...]]]:
        """Yield the parts of the journal whose rows are intact."""
        if not self._journal.exists():
            return
        size = self._rows.stat().st_size
        with open(self._rows, "rb") as file:
            for line in self._journal.read_bytes().splitlines():
                try:
                    entry = parse_json(_Entry, line)
                except ValueError:
                    continue  # torn
                part, shape = range(entry.start, entry.stop), tuple(entry.shape)
                row_bytes = math.prod(shape) * self._dtype.itemsize
                if not part or part.stop > self._samples or part.stop * row_bytes > size:
                    continue
                file.seek(part.start * row_bytes)
                if _checksum(part, shape, file.read(len(part) * row_bytes)) == entry.checksum:
                    yield part, shape


@dataclass(frozen=True)
class _Entry:
    """Line of the journal: the complete rows, their shape, and a checksum of all of this."""

    start: Count
    stop: Count
    shape: Counts
    checksum: Count


def _checksum(part: range, shape: tuple[int, ...], rows: np.ndarray | bytes) -> int:
    return zlib.crc32(rows, zlib.crc32(repr((part, shape)).encode()))
