"""Encoded images on disk: an Arrow file that every process on a node maps into memory and reads without a copy.

One file per content key, named after it. The columns are ``sample_id, label, domain, official, feature`` in a single
record batch, so all features lie in one contiguous block. The schema's metadata holds what the key was made of, the
format's version and a checksum. Imports nothing but numpy, pyarrow and the standard library: every client process pays
for it.
"""

import hashlib
import json
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from promptfleet.atomic_files import replacing
from promptfleet.errors import DataError

FORMAT = "promptfleet-features"
VERSION = 2
INTEGERS = ("sample_id", "label", "domain", "official")  # the int64 columns; the last column is ``feature``
NONE = -1
META = b"promptfleet"


@dataclass(frozen=True, eq=False)
class FeatureStore:
    """The features of one dataset under one backbone. Arrays are views of the mapped file, hence read-only.

    features float32 ``[samples, dim]``; labels, domains and official int64 ``[samples]``, where official is the
    ``data.dataset.Part`` of the published split, and a domain or official of -1 means none. Row ``i`` is sample ``i``
    of the dataset. The mapping lives as long as any of the arrays, also after the file was replaced or deleted.
    """

    features: np.ndarray
    labels: np.ndarray
    domains: np.ndarray
    official: np.ndarray
    key_parts: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def dim(self) -> int:
        return self.features.shape[1]

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """The features of some samples, float32 ``[len(indices), dim]``: a copy of just these."""
        return self.features[indices]


def feature_key(**parts: str) -> str:
    """The content key of features made from ``parts`` (backbone, dataset, transform, ...), as sha256 in hex."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def feature_path(folder: str | Path, key_parts: Mapping[str, str]) -> Path:
    """Where ``write_features`` puts the features with that key."""
    return Path(folder) / f"{feature_key(**key_parts)[:16]}.arrow"


def write_features(
    folder: str | Path,
    key_parts: Mapping[str, str],
    batches: Iterable[np.ndarray],
    labels: np.ndarray,
    domains: np.ndarray | None = None,
    official: np.ndarray | None = None,
) -> Path:
    """Write a feature store and return its path; replaces a store with the same key.

    ``batches`` are arrays ``[k, dim]`` in the order of the samples, taken one at a time and kept as float32; labels,
    domains and official are integers ``[samples]``. Memory holds one batch: they are collected in an unnamed file in
    ``folder``, which needs room for the features twice. The store appears under its name only when complete and on
    disk, so several processes may write the same key at once (the last one wins) and a killed one leaves at worst a
    ``.partial`` file.

    Raises:
        DataError: if a batch has the wrong shape or a NaN or Inf, if batches, labels, domains and official differ in
            length, or if the disk refuses.
    """
    path = feature_path(folder, key_parts)
    with _disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115  closed by the next statement
    with scratch:
        dim = 0
        for batch in batches:
            batch = _checked(np.asarray(batch), dim)
            dim = batch.shape[1]
            with _disk_errors(path):
                scratch.write(batch.data)
        with _disk_errors(path):
            scratch.flush()
            size = scratch.tell()
        labels = np.ascontiguousarray(labels, dtype=np.int64)
        integers = {"label": labels, "domain": _or_none(domains, labels), "official": _or_none(official, labels)}
        samples = size // (4 * dim) if dim else 0
        if not samples or any(column.shape != (samples,) for column in integers.values()):
            found = ", ".join(f"{name} {list(column.shape)}" for name, column in integers.items())
            raise DataError(f"{path}: features of {samples} samples, {found}; all must have one length, at least 1")
        features = np.memmap(scratch, dtype=np.float32, mode="r", shape=(samples, dim))
        with _disk_errors(path):
            _write_file(path, key_parts, features, integers)
    return path


def open_features(path: str | Path, key_parts: Mapping[str, str] | None = None, *, verify: bool = True) -> FeatureStore:
    """Map a feature store into memory.

    With ``key_parts``, the store must have been written for exactly these. A file that is cut short, or whose structure
    is damaged, is always refused. ``verify`` also reads all values once and compares their checksum (3 GB/s, about), so
    that a changed value is found; processes that open what another one has just verified may leave it out.

    Raises:
        DataError: if the file is missing, no feature store, of another format version, damaged, or of another key.
    """
    path = Path(path)
    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
            meta = _read_meta(path, reader.schema)
            batch = reader.get_batch(0)
            batch.validate()
            _check_types(batch.schema)
            sample_ids, labels, domains, official = (_values(batch.column(name), np.int64) for name in INTEGERS)
            feature = batch.column("feature")
            features = _values(feature.flatten(), np.float32).reshape(len(feature), feature.type.list_size)
            key_found, checksum = meta["key_parts"], meta["checksum"]
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such feature store") from None
    except (PermissionError, IsADirectoryError) as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _damaged(path, reason) from None
    if verify and _checksum(key_found, sample_ids, labels, domains, official, features) != checksum:
        raise _damaged(path, "its content does not match its checksum")
    if key_parts is not None and dict(key_parts) != key_found:
        raise DataError(f"{path}: made for other inputs: {_difference(key_found, key_parts)}")
    return FeatureStore(features, labels, domains, official, key_found)


def _values(array: pa.Array, dtype: type) -> np.ndarray:
    """The array's values in place; pyarrow's own conversion would import pandas."""
    return np.frombuffer(array.buffers()[-1], dtype, count=len(array), offset=array.offset * np.dtype(dtype).itemsize)


def _checked(batch: np.ndarray, dim: int) -> np.ndarray:
    """The batch as contiguous float32; ``dim`` is that of the batches before, 0 for the first."""
    if batch.ndim != 2 or not batch.shape[1] or dim not in (0, batch.shape[1]):
        wanted = f"[samples, {dim or 'dim'}]"
        raise DataError(f"features: a batch has shape {list(batch.shape)}, should be {wanted}")
    batch = np.ascontiguousarray(batch, dtype=np.float32)
    if not np.isfinite(batch).all():
        raise DataError("features: a batch has a NaN or Inf; the backbone's weights or the images are damaged")
    return batch


def _or_none(values: np.ndarray | None, labels: np.ndarray) -> np.ndarray:
    return np.full_like(labels, NONE) if values is None else np.ascontiguousarray(values, dtype=np.int64)


def _write_file(
    path: Path, key_parts: Mapping[str, str], features: np.ndarray, integers: Mapping[str, np.ndarray]
) -> None:
    samples, dim = features.shape
    integers = {"sample_id": np.arange(samples, dtype=np.int64), **integers}
    meta = {
        "format": FORMAT,
        "version": VERSION,
        "key_parts": dict(key_parts),
        "checksum": _checksum(key_parts, *integers.values(), features),
    }
    values = pa.Array.from_buffers(pa.float32(), features.size, [None, pa.py_buffer(features)])
    columns = [*map(pa.array, integers.values()), pa.FixedSizeListArray.from_arrays(values, dim)]
    batch = pa.record_batch(columns, names=[*integers, "feature"]).replace_schema_metadata({META: json.dumps(meta)})
    with replacing(path) as partial, open(partial, "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)


def _checksum(key_parts: Mapping[str, str], *arrays: np.ndarray) -> int:
    checksum = zlib.crc32(feature_key(**key_parts).encode())
    for array in arrays:
        checksum = zlib.crc32(array.reshape(-1).view(np.uint8), checksum)
    return checksum


def _read_meta(path: Path, schema: pa.Schema) -> dict:
    """What the schema says about the file. Raises DataError for another kind or version of file."""
    meta = json.loads((schema.metadata or {}).get(META, b"{}"))
    if meta.get("format") != FORMAT:
        raise DataError(f"{path}: an Arrow file, but no feature store; columns {', '.join(schema.names)}")
    if meta["version"] != VERSION:
        raise DataError(
            f"{path}: a feature store of format version {meta['version']}, this promptfleet reads {VERSION}; delete it "
            f"and it is encoded again"
        )
    return meta


def _check_types(schema: pa.Schema) -> None:
    """Raise ValueError unless the columns are those that ``_write_file`` writes."""
    dim = schema.field("feature").type.list_size
    integers = dict.fromkeys(INTEGERS, pa.int64())
    if dict(zip(schema.names, schema.types, strict=True)) != {**integers, "feature": pa.list_(pa.float32(), dim)}:
        raise ValueError(f"columns {', '.join(map(str, schema.types))}")


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(f"{path}: damaged, or no feature store ({reason}); delete it and it is encoded again")


def _difference(found: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    names = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
    return ", ".join(f"{name} is {found.get(name)!r}, wanted {wanted.get(name)!r}" for name in names)


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk, missing rights and the like into a line for the user."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from error
