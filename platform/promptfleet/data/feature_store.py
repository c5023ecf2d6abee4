"""Encoded images on disk: Arrow files that every process on a node maps into memory and reads without a copy.

One file per content key, named after it. The columns are ``sample_id, label, domain, official, feature`` in a single
record batch, so all features are in one contiguous block of float32 or float16. The schema's metadata holds the parts
of the key, the shape of one sample's features, the format's version and a checksum. Global features, patch features and
features of augmented views are separate files, so that each is encoded only when it is needed. Imports nothing but
numpy, pyarrow and the standard library: every client process pays for it.
"""

import hashlib
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from promptfleet.atomic_files import replacing
from promptfleet.disks import disk_errors
from promptfleet.errors import DataError, first_line

FORMAT = "promptfleet-features"
VERSION = 2
INTEGERS = ("sample_id", "label", "domain", "official")  # the int64 columns; the last column is ``feature``
NONE = -1
META = b"promptfleet"
DTYPES = {"float32": pa.float32(), "float16": pa.float16()}
ALWAYS_VERIFIED_BYTES = 2**30  # larger files are read whole once, and again when they have changed
BLOCK = 4096  # samples whose features are looked at in one go


@dataclass(frozen=True, eq=False)
class FeatureStore:
    """Features of one dataset under one backbone. Arrays are views of the mapped file, hence read-only.

    features float32 or float16 ``[samples, dim]``; labels, domains and official int64 ``[samples]``, where official is
    the ``data.dataset.Part`` of the published split, and a domain or official of -1 means none. If they were opened,
    patches ``[samples, patches, dim]`` and views ``[samples, views, dim]``. Row ``i`` is sample ``i`` of the dataset. A
    mapping lives as long as any of the arrays, also after the file was replaced or deleted.
    """

    features: np.ndarray
    labels: np.ndarray
    domains: np.ndarray
    official: np.ndarray
    key_parts: Mapping[str, str]
    patches: np.ndarray | None = None
    views: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def dim(self) -> int:
        return self.features.shape[-1]

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Return the features of some samples, float32 ``[len(indices), dim]``: a copy of just these."""
        return rows_of(self.features, indices)


def rows_of(array: np.ndarray, indices: np.ndarray | slice) -> np.ndarray:
    """Return some rows of a mapped array as float32: a copy of just these, or no copy for a slice of float32."""
    return array[indices].astype(np.float32, copy=False)


def feature_key(**parts: str) -> str:
    """Return the content key of features made from ``parts`` (backbone, dataset, transform, ...), as sha256 in hex."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def feature_path(folder: str | Path, key_parts: Mapping[str, str]) -> Path:
    """Return the path at which ``write_features`` puts the features with that key."""
    return Path(folder) / f"{feature_key(**key_parts)[:16]}.arrow"


def write_features(
    folder: str | Path,
    key_parts: Mapping[str, str],
    features: np.ndarray,
    labels: np.ndarray,
    domains: np.ndarray | None = None,
    official: np.ndarray | None = None,
) -> Path:
    """Write one file of a feature store and return its path; replaces the file with the same key.

    features ``[samples, dim]`` (or ``[samples, patches or views, dim]``), float32 or float16, may be mapped: they are
    never copied in memory. labels, domains and official are integers ``[samples]``. The file appears under its name
    only when complete and on disk, so several processes may write the same key at once (the last one wins) and a
    killed one leaves at worst a ``.partial`` file.

    Raises:
        DataError: if the features have another type or shape, if features, labels, domains and official differ in
            length, or if the disk refuses.
    """
    path = feature_path(folder, key_parts)
    if features.dtype.name not in DTYPES or features.ndim < 2 or not features.size:
        found = f"{features.dtype} {list(features.shape)}"
        raise DataError(f"{path}: features are {found}, should be float32 or float16 [samples, dim]")
    labels = np.ascontiguousarray(labels, dtype=np.int64)
    integers = {"label": labels, "domain": _or_none(domains, labels), "official": _or_none(official, labels)}
    if any(column.shape != (len(features),) for column in integers.values()):
        found = ", ".join(f"{name} {list(column.shape)}" for name, column in integers.items())
        raise DataError(f"{path}: features of {len(features)} samples, {found}; all must have the same length")
    with disk_errors(path):
        _write_file(path, key_parts, np.ascontiguousarray(features), integers)
    return path


def open_store(
    features: str | Path, patches: str | Path | None = None, views: str | Path | None = None
) -> FeatureStore:
    """Map all files of a store that another process has verified. Raises DataError as ``open_features`` does."""
    opened = {"patches": patches, "views": views}
    extra = {name: open_features(path, verify=False).features for name, path in opened.items() if path}
    return replace(open_features(features, verify=False), **extra)


def open_features(path: str | Path, key_parts: Mapping[str, str] | None = None, *, verify: bool = True) -> FeatureStore:
    """Map one file of a feature store into memory.

    With ``key_parts``, the file must have been written for exactly these. A file that is cut short, or whose structure
    is damaged, is always refused. ``verify`` also reads all values and compares their checksum (3 GB/s, about), so that
    a changed value is found. A file above 1 GiB that was verified is not read again while its size, its time of change
    and its inode stay. Processes that open what another one has just verified may leave it out.

    Raises:
        DataError: if the file is missing, no feature store, of another format version, damaged, or of another key.
    """
    path = Path(path)
    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
            meta = _read_meta(path, reader.schema)
            batch = reader.get_batch(0)
            batch.validate()
            shape, dtype = meta["shape"], meta["dtype"]
            _check_types(batch.schema, shape, dtype)
            sample_ids, labels, domains, official = (_values(batch.column(name), np.int64) for name in INTEGERS)
            features = _values(batch.column("feature").flatten(), np.dtype(dtype)).reshape(len(labels), *shape)
            key_found, checksum = meta["key_parts"], meta["checksum"]
            feature_key(**key_found)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such feature store") from None
    except (PermissionError, IsADirectoryError) as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except Exception as error:  # a damaged file can fail in any part of its reader
        raise _damaged(path, first_line(error)) from None
    columns = sample_ids, labels, domains, official, features
    is_large = features.nbytes > ALWAYS_VERIFIED_BYTES
    if verify and not (is_large and _is_known(path)):
        if _checksum(key_found, *columns) != checksum:
            raise _damaged(path, "its content does not match its checksum")
        if not all(np.isfinite(some).all() for some in np.array_split(features, len(features) // BLOCK + 1)):
            raise _damaged(path, "it has a NaN or Inf")
        if is_large:
            _remember(path)
    if key_parts is not None and dict(key_parts) != key_found:
        raise DataError(f"{path}: made for other inputs: {_difference(key_found, key_parts)}")
    return FeatureStore(features, labels, domains, official, key_found)


def _is_known(path: Path) -> bool:
    """Return True if this very file was verified before, see ``_remember``."""
    try:
        return _note_of(path).read_text() == _identity(path)
    except (OSError, ValueError):
        return False


def _remember(path: Path) -> None:
    """Note in an extra file that this one was verified; without it the next start verifies once more."""
    with suppress(OSError), replacing(_note_of(path)) as partial:
        partial.write_text(_identity(path))


def _note_of(path: Path) -> Path:
    return path.with_suffix(".verified")


def _identity(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ino}"


def _values(array: pa.Array, dtype: type) -> np.ndarray:
    """Return the array's values in place; pyarrow's own conversion would import pandas."""
    return np.frombuffer(array.buffers()[-1], dtype, count=len(array), offset=array.offset * np.dtype(dtype).itemsize)


def _or_none(values: np.ndarray | None, labels: np.ndarray) -> np.ndarray:
    return np.full_like(labels, NONE) if values is None else np.ascontiguousarray(values, dtype=np.int64)


def _write_file(
    path: Path, key_parts: Mapping[str, str], features: np.ndarray, integers: Mapping[str, np.ndarray]
) -> None:
    integers = {"sample_id": np.arange(len(features), dtype=np.int64), **integers}
    meta = {
        "format": FORMAT,
        "version": VERSION,
        "key_parts": dict(key_parts),
        "shape": features.shape[1:],
        "dtype": features.dtype.name,
        "checksum": _checksum(key_parts, *integers.values(), features),
    }
    values = pa.Array.from_buffers(DTYPES[features.dtype.name], features.size, [None, pa.py_buffer(features)])
    lists = pa.FixedSizeListArray.from_arrays(values, features[0].size)
    columns = [*map(pa.array, integers.values()), lists]
    batch = pa.record_batch(columns, names=[*integers, "feature"]).replace_schema_metadata({META: json.dumps(meta)})
    with replacing(path) as partial, open(partial, "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)


def _checksum(key_parts: Mapping[str, str], *arrays: np.ndarray) -> int:
    checksum = zlib.crc32(feature_key(**key_parts).encode())
    for array in arrays:
        checksum = zlib.crc32(array.reshape(-1).view(np.uint8), checksum)
    return checksum


def _read_meta(path: Path, schema: pa.Schema) -> dict:
    """Return the schema's description of the file. Raises DataError for another kind or version of file."""
    meta = json.loads((schema.metadata or {}).get(META, b"{}"))
    if meta.get("format") != FORMAT:
        raise DataError(f"{path}: an Arrow file, but no feature store; columns {', '.join(schema.names)}")
    if meta["version"] != VERSION:
        raise DataError(
            f"{path}: a feature store of format version {meta['version']}, this promptfleet reads {VERSION}"
        )
    return meta


def _check_types(schema: pa.Schema, shape: Sequence[int], dtype: str) -> None:
    """Raise ValueError unless the columns are those that ``_write_file`` writes."""
    feature = pa.list_(DTYPES[dtype], math.prod(shape))
    wanted = {**dict.fromkeys(INTEGERS, pa.int64()), "feature": feature}
    if dict(zip(schema.names, schema.types, strict=True)) != wanted:
        raise ValueError(f"columns {', '.join(map(str, schema.types))}")


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(f"{path}: damaged, or no feature store ({reason})")


def _difference(found: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    names = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
    return ", ".join(f"{name} is {found.get(name)!r}, wanted {wanted.get(name)!r}" for name in names)
