import itertools
import json
import multiprocessing
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from promptfleet.data import feature_store
from promptfleet.data.feature_store import META, feature_key, feature_path, open_features, open_store, write_features
from promptfleet.errors import DataError

PARTS = {"backbone": "ViT-B-16/abc", "dataset": "digits/def", "transform": "centre-crop"}
spawn = multiprocessing.get_context("spawn")


def made_up_features(samples: int = 9, dim: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((samples, dim), dtype=np.float32)


@pytest.fixture
def store_path(tmp_path) -> Path:
    return write_features(tmp_path, PARTS, made_up_features(), np.arange(9))


# Round trip


@settings(max_examples=30, deadline=None)
@given(
    features=st.sampled_from([np.float32, np.float16]).flatmap(
        lambda dtype: hnp.arrays(
            dtype,
            hnp.array_shapes(min_dims=2, max_dims=3, max_side=20),
            elements=st.floats(allow_nan=False, allow_infinity=False, width=np.dtype(dtype).itemsize * 8),
        )
    ),
)
def test_round_trip(tmp_path_factory, features):
    labels = np.arange(len(features)) * 3
    store = open_features(write_features(tmp_path_factory.mktemp("store"), PARTS, features, labels), PARTS)
    assert store.features.dtype == features.dtype
    np.testing.assert_array_equal(store.features, features)
    np.testing.assert_array_equal(store.labels, labels)
    assert (len(store), store.dim) == (len(features), features.shape[-1])
    assert store.domains.tolist() == store.official.tolist() == [-1] * len(features)
    assert store.key_parts == PARTS


def test_domains_official_parts_and_rows(tmp_path):
    features = made_up_features()
    domains, official = np.arange(9) % 2, np.arange(9) % 3
    store = open_features(write_features(tmp_path, PARTS, features, np.arange(9), domains, official))
    np.testing.assert_array_equal(store.domains, domains)
    np.testing.assert_array_equal(store.official, official)
    np.testing.assert_array_equal(store.rows(np.array([7, 0, 7])), features[[7, 0, 7]])
    with pytest.raises(IndexError):
        store.rows(np.array([9]))


def test_rows_of_float16_are_read_as_float32(tmp_path):
    features = made_up_features().astype(np.float16)
    rows = open_features(write_features(tmp_path, PARTS, features, np.arange(9))).rows(np.array([3, 1]))
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, features[[3, 1]])


def test_patches_and_views_are_opened_beside_the_features(tmp_path):
    arrays = {"features": made_up_features(), "patches": np.ones((9, 4, 5), np.float16), "views": np.zeros((9, 2, 5))}
    arrays["views"] = arrays["views"].astype(np.float32)
    paths = {kind: write_features(tmp_path, {"kind": kind}, array, np.arange(9)) for kind, array in arrays.items()}
    store = open_store(**paths)
    for kind, array in arrays.items():
        np.testing.assert_array_equal(getattr(store, kind), array)
        assert getattr(store, kind).dtype == array.dtype
    assert open_store(paths["features"]).patches is None


def test_file_is_plain_arrow(store_path):
    table = pa.ipc.open_file(store_path).read_all()
    assert table.column_names == ["sample_id", "label", "domain", "official", "feature"]
    assert table.schema.field("feature").type == pa.list_(pa.float32(), 5)
    assert table["sample_id"].to_pylist() == list(range(9))
    assert json.loads(table.schema.metadata[b"promptfleet"])["key_parts"] == PARTS


# Mapped, not read


def test_arrays_lie_in_the_mapped_file(store_path):
    before = pa.total_allocated_bytes()
    store = open_features(store_path)
    assert pa.total_allocated_bytes() == before
    regions = re.findall(rf"^(\w+)-(\w+) .*{re.escape(str(store_path))}$", Path("/proc/self/maps").read_text(), re.M)
    assert len(regions) == 1
    start, end = (int(address, 16) for address in regions[0])
    for array in (store.features, store.labels, store.domains, store.official):
        assert start <= array.ctypes.data
        assert array.ctypes.data + array.nbytes <= end
        assert not array.flags.writeable


def test_store_outlives_its_file(store_path):
    store = open_features(store_path)
    write_features(store_path.parent, PARTS, made_up_features(seed=1), np.arange(9))
    os.remove(store_path)
    np.testing.assert_array_equal(store.features, made_up_features())


def test_client_processes_import_nothing_heavy():
    heavy = "{'torch', 'sklearn', 'PIL', 'ray', 'pandas', 'scipy', 'pydantic'}"
    code = f"import promptfleet.data.feature_store, sys; sys.exit(', '.join({heavy} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# Keys


def test_key_depends_on_every_part_and_not_on_their_order():
    assert feature_key(backbone="a", dataset="b") == feature_key(dataset="b", backbone="a")
    keys = {feature_key(a="x", b="y"), feature_key(a="xb", b="y"), feature_key(a="x"), feature_key(a="y", b="x")}
    assert len(keys) == 4


def test_path_is_named_after_the_key(store_path):
    assert store_path == feature_path(store_path.parent, PARTS)
    assert store_path.name == f"{feature_key(**PARTS)[:16]}.arrow"


def test_foreign_key_is_refused(store_path):
    with pytest.raises(DataError) as caught:
        open_features(store_path, {**PARTS, "backbone": "RN50/xyz"})
    assert str(caught.value) == (f"{store_path}: made for other inputs: backbone is 'ViT-B-16/abc', wanted 'RN50/xyz'")


# Damage


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"none\.arrow: there is no such feature store$"):
        open_features(tmp_path / "none.arrow")


def test_folder_is_no_store(tmp_path):
    with pytest.raises(DataError, match=r": (cannot be read|damaged, or no feature store) \("):
        open_features(tmp_path)


def test_every_truncation_is_refused_even_without_verifying(store_path):
    for length in reversed(range(store_path.stat().st_size)):
        os.truncate(store_path, length)
        with pytest.raises(DataError, match=r"damaged, or no feature store \(.*\)$"):
            open_features(store_path, verify=False)


@pytest.mark.slow
def test_every_changed_byte_is_refused_or_without_effect(store_path):
    content = store_path.read_bytes()
    intact = open_features(store_path)
    for place, flip in itertools.product(range(len(content)), (0x01, 0xFF)):
        store_path.unlink()  # ``intact`` has it mapped
        store_path.write_bytes(content[:place] + bytes([content[place] ^ flip]) + content[place + 1 :])
        try:
            store = open_features(store_path)
        except DataError:
            continue
        assert store.key_parts == PARTS
        for name in ("features", "labels", "domains", "official"):
            found, wanted = getattr(store, name), getattr(intact, name)
            assert found.dtype == wanted.dtype
            assert np.array_equal(found, wanted)


def test_changed_value_is_named(store_path):
    content = store_path.read_bytes()
    place = content.index(made_up_features().tobytes())
    store_path.write_bytes(content[:place] + b"\0\0\0\0" + content[place + 4 :])
    with pytest.raises(DataError, match="its content does not match its checksum"):
        open_features(store_path)
    assert open_features(store_path, verify=False).features[0, 0] == 0


def test_a_large_file_is_read_whole_once_and_again_when_it_has_changed(store_path, monkeypatch):
    read = []
    checksum = feature_store._checksum
    monkeypatch.setattr(feature_store, "ALWAYS_VERIFIED_BYTES", 0)
    monkeypatch.setattr(feature_store, "_checksum", lambda *parts: read.append(1) or checksum(*parts))
    for _ in range(3):
        open_features(store_path)
    assert len(read) == 1

    content = store_path.read_bytes()
    place = content.index(made_up_features().tobytes())
    store_path.write_bytes(content[:place] + b"\0\0\0\0" + content[place + 4 :])
    for _ in range(2):
        with pytest.raises(DataError, match="its content does not match its checksum"):
            open_features(store_path)
    assert len(read) == 3
    store_path.with_suffix(".verified").write_bytes(b"\xff")
    write_features(store_path.parent, PARTS, made_up_features(), np.arange(9))
    assert np.array_equal(open_features(store_path).features, made_up_features())


def test_other_arrow_file(tmp_path):
    path = tmp_path / "other.arrow"
    batch = pa.record_batch({"x": [1]})
    with pa.ipc.new_file(path, batch.schema) as writer:
        writer.write_batch(batch)
    with pytest.raises(DataError, match=r"other\.arrow: an Arrow file, but no feature store; columns x$"):
        open_features(path)


def test_other_version(store_path, monkeypatch):
    monkeypatch.setattr("promptfleet.data.feature_store.VERSION", 3)
    with pytest.raises(DataError, match=r"format version 2, this promptfleet reads 3$"):
        open_features(store_path)


# What cannot be written


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros(9, np.float32), r"features are float32 \[9\], should be float32 or float16 \[samples, dim\]"),
        (np.zeros((9, 5)), r"features are float64 \[9, 5\], should be"),
        (np.zeros((9, 0), np.float32), r"features are float32 \[9, 0\], should be"),
        (made_up_features(8), r"features of 8 samples, label \[9\], domain \[9\], official \[9\]; all must have the"),
    ],
)
def test_unfit_features_leave_nothing_behind(tmp_path, features, message):
    with pytest.raises(DataError, match=message):
        write_features(tmp_path, PARTS, features, np.arange(9))
    assert list(tmp_path.iterdir()) == []


def test_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(DataError, match=r"\.arrow: cannot be written \(No space left on device\)"):
        write_features(tmp_path, PARTS, made_up_features(), np.arange(9))
    assert list(tmp_path.iterdir()) == []


# Several writers, and killed ones


def write_often(folder: Path, seed: int) -> None:
    for _ in range(20):
        write_features(folder, PARTS, made_up_features(2000, 16, seed), np.full(2000, seed))


def die_before_the_rename(folder: Path) -> None:
    os.fsync = lambda descriptor: os._exit(9)
    write_features(folder, PARTS, made_up_features(), np.arange(9))


@pytest.mark.slow
def test_two_writers_at_once_and_a_reader_never_see_a_mixture(tmp_path):
    write_features(tmp_path, PARTS, made_up_features(2000, 16, 1), np.full(2000, 1))
    writers = [spawn.Process(target=write_often, args=(tmp_path, seed)) for seed in (1, 2)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        store = open_features(feature_path(tmp_path, PARTS), PARTS)
        np.testing.assert_array_equal(store.features, made_up_features(2000, 16, store.labels[0]))
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == [feature_path(tmp_path, PARTS).name]


def test_writer_killed_while_writing_leaves_no_store(tmp_path):
    writer = spawn.Process(target=die_before_the_rename, args=(tmp_path,))
    writer.start()
    writer.join()
    assert writer.exitcode == 9
    assert [path.suffix for path in tmp_path.iterdir()] == [".partial"]
    with pytest.raises(DataError, match="there is no such feature store"):
        open_features(feature_path(tmp_path, PARTS))
    path = write_features(tmp_path, PARTS, made_up_features(), np.arange(9))  # the next one is not in its way
    assert len(open_features(path, PARTS)) == 9


def crafted(path, **changes):
    """The file with other metadata, whose checksum is as it was."""
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
        batch = reader.get_batch(0)
        meta = json.loads(batch.schema.metadata[META]) | changes
        batch = pa.record_batch([pa.concat_arrays([column]) for column in batch.columns], names=batch.schema.names)
    batch = batch.replace_schema_metadata({META: changes.get("text") or json.dumps(meta)})
    with pa.ipc.new_file(str(path.with_name("crafted")), batch.schema) as writer:
        writer.write_batch(batch)
    return path.with_name("crafted")


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [True, 3]},
        {"shape": [-3]},
        {"shape": [10**30]},
        {"shape": ["3"]},
        {"shape": None},
        {"dtype": ["float32"]},
        {"key_parts": [1]},
        {"key_parts": {"backbone": {"a": "b"}}},
        {"checksum": "0"},
        {"text": "[" * 200_000},
        {"text": "{}"},
    ],
)
def test_crafted_metadata_is_refused(tmp_path, changes):
    path = write_features(tmp_path, {"backbone": "b"}, np.ones((4, 3), np.float32), np.zeros(4, np.int64))
    with pytest.raises(DataError) as caught:
        open_features(crafted(path, **changes))
    assert "damaged, or no feature store" in str(caught.value) or "no feature store" in str(caught.value)


def test_a_nan_with_a_right_checksum_is_refused(tmp_path):
    features = np.ones((9000, 3), np.float32)
    features[8999, 1] = np.nan
    path = write_features(tmp_path, {"backbone": "b"}, features, np.zeros(9000, np.int64))
    with pytest.raises(DataError, match=r"damaged, or no feature store \(it has a NaN or Inf\)"):
        open_features(path)
