"""Encoding against a stand-in for CLIP: what is made, kept, waited for and thrown away."""

import multiprocessing
import os
import re
import resource
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from promptfleet import run_federation
from promptfleet.atomic_files import locked
from promptfleet.clip.backbone import Backbone
from promptfleet.config import FeaturesConfig, FederationConfig
from promptfleet.data.dataset import Dataset
from promptfleet.data.datasets import load_dataset
from promptfleet.data.feature_store import open_features, open_store, write_features
from promptfleet.errors import ConfigError, DataError
from promptfleet.features import encoding, image_encoder
from promptfleet.features.encoding import PART, encode_missing, wanted_files
from promptfleet.features.image_encoder import Encoder, encode_in_threads, load_inputs
from promptfleet.features.stored_images import images_of
from promptfleet.federation.settings import federation_config
from promptfleet.methods.protocol import Needs
from tests.samples import write_image

CONFIG = FederationConfig()
SAMPLES = 3 * PART - 10
spawn = multiprocessing.get_context("spawn")


class Tower(torch.nn.Module):
    """Repeats an image's mean ``dim`` times, so that a feature says which image it is of."""

    def __init__(self, dim: int = 4):
        super().__init__()
        self.dim = dim

    def encode_image(self, pixels, normalize):
        assert normalize
        return pixels.mean(dim=(1, 2, 3)).unsqueeze(1).repeat(1, self.dim)


def made_up_backbone(dim: int = 4, fingerprint: str = "b") -> Backbone:
    backbone = Backbone("stand-in", fingerprint, None, 1.0, {}, lambda: Tower(dim))
    vars(backbone)["transform"] = lambda image: torch.from_numpy(np.array(image.convert("F"))).expand(3, 2, 2)
    return backbone


class Reader:
    """Sample ``i`` is an image of the constant ``i``; counts, and cannot read ``broken`` ones."""

    def __init__(self, broken=()):
        self.read, self.broken = [], set(broken)

    def __call__(self, index: int) -> Image.Image:
        self.read.append(index)
        if index in self.broken:
            raise DataError(f"image-{index}.jpg: does not decode")
        return Image.fromarray(np.full((2, 2), index, dtype=np.float32))


def made_up_dataset(reader, samples: int = SAMPLES, **changes) -> Dataset:
    values = {"name": "made-up", "class_names": ("a", "b"), "templates": ("{}",), "fingerprint": "d"}
    return Dataset(**{**values, "labels": np.arange(samples) % 2, "read_image": reader, **changes})


def encode(folder, reader, *, backbone=None, dataset=None, **settings) -> dict[str, Path]:
    backbone, dataset = backbone or made_up_backbone(), dataset or made_up_dataset(reader)
    config = CONFIG.model_copy(update={"features": FeaturesConfig(**settings)})
    files = wanted_files(backbone, dataset, config.features, Needs.GLOBAL, folder)
    encode_missing(config, backbone, dataset, files)
    return {file.kind: file.path for file in files}


def test_every_image_is_encoded_once_and_in_its_place(tmp_path, caplog):
    caplog.set_level("INFO")
    reader = Reader()
    official = np.arange(SAMPLES) % 3
    store = open_features(encode(tmp_path, reader, dataset=made_up_dataset(reader, official=official))["features"])
    np.testing.assert_array_equal(store.features, np.arange(SAMPLES)[:, None].repeat(4, axis=1))
    np.testing.assert_array_equal(store.official, official)
    assert sorted(reader.read) == list(range(SAMPLES))
    assert [path.suffix for path in tmp_path.iterdir()] == [".arrow"]
    assert caplog.messages[0] == f"encoding {SAMPLES} images of made-up with stand-in"
    assert re.fullmatch(rf"encoded {SAMPLES} images of made-up in [\d.]+ s, [\d.]+ images/s", caplog.messages[1])


def test_what_is_there_is_not_encoded_again(tmp_path):
    first = encode(tmp_path, Reader())
    reader = Reader()
    assert encode(tmp_path, reader) == first
    assert reader.read == []
    with_views = encode(tmp_path, reader, backbone=None, views=2)
    assert with_views["features"] == first["features"]
    assert open_features(with_views["views"]).features.shape == (SAMPLES, 2, 4)


def test_float16_is_another_file_of_half_the_size(tmp_path):
    full, half = encode(tmp_path, Reader())["features"], encode(tmp_path, Reader(), dtype="float16")["features"]
    assert full != half
    assert open_features(half).features.dtype == np.float16
    np.testing.assert_array_equal(open_features(half).features, open_features(full).features)


def test_an_unreadable_image_is_named_and_the_rest_is_kept(tmp_path):
    reader = Reader(broken=[PART + 3])
    with pytest.raises(DataError, match=rf"^image-{PART + 3}\.jpg: does not decode$"):
        encode(tmp_path, reader)
    repaired = Reader()
    path = encode(tmp_path, repaired)["features"]
    assert 0 not in repaired.read
    assert PART + 3 in repaired.read
    np.testing.assert_array_equal(open_features(path).features[:, 0], np.arange(SAMPLES))


def test_an_error_of_pillow_names_dataset_and_image(tmp_path):
    def read(index):
        raise OSError("image file is truncated")

    with pytest.raises(DataError, match=r"^dataset made-up: image \d+ cannot be read \(image file is truncated\)$"):
        encode(tmp_path, read)


def damage(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def relabel(path: Path) -> None:
    store = open_features(path)
    write_features(path.parent, store.key_parts, np.array(store.features), 1 - store.labels)


def other_weights(path: Path) -> None:
    store = open_features(path)
    other = write_features(path.parent, {"backbone": "other"}, np.array(store.features), store.labels)
    other.rename(path)


def older(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(
        content.replace(b'\\"version\\": 2', b'\\"version\\": 1').replace(b'"version": 2', b'"version": 1')
    )


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (damage, "damaged, or no feature store"),
        (relabel, "its labels, domains or official parts are not those of made-up"),
        (other_weights, "made for other inputs: backbone is 'other', wanted 'b'"),
        (older, "a feature store of format version 1, this promptfleet reads 2"),
    ],
)
def test_what_does_not_fit_is_encoded_again_in_one_line(tmp_path, caplog, spoil, reason):
    path = encode(tmp_path, Reader())["features"]
    spoil(path)
    reader = Reader()
    encode(tmp_path, reader)
    assert len(reader.read) == SAMPLES
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith(f"{path}: {reason}")
    assert warning.endswith("; encoding the images again")
    np.testing.assert_array_equal(open_features(path).labels, np.arange(SAMPLES) % 2)


@pytest.mark.parametrize(("need", "seen"), [(Needs.PATCHES, "patches"), (Needs.PIXELS, "pixels")])
def test_views_are_not_for_patches_and_pixels(tmp_path, need, seen):
    settings = FeaturesConfig(views=2)
    with pytest.raises(ConfigError, match=rf"^features\.views=2: there are no views for methods that see {seen}"):
        wanted_files(made_up_backbone(), made_up_dataset(Reader()), settings, need, tmp_path)


def test_every_input_has_a_file_of_its_own(tmp_path):
    dataset, patches = made_up_dataset(Reader()), {Needs.PATCHES}
    paths = [
        file.path
        for backbone in (made_up_backbone(), made_up_backbone(fingerprint="c"))
        for settings, needs in [
            (FeaturesConfig(views=2), Needs.GLOBAL),
            (FeaturesConfig(views=3, dtype="float16"), Needs.GLOBAL),
            (FeaturesConfig(patches_dtype="float32"), patches),
            (FeaturesConfig(), patches),
        ]
        for file in wanted_files(backbone, dataset, settings, needs, tmp_path)
    ]
    assert len(paths) == 16
    assert len(set(paths)) == 12  # features in float32 are the same three times


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_lose_no_part_and_bound_what_they_hold(threads):
    begun = []

    def encode_one(part):
        begun.append(part)
        return {"features": part}

    parts = [range(start, start + 2) for start in range(0, 40, 2)]
    before, seen = torch.get_num_threads(), []
    for part in encode_in_threads(encode_one, parts, threads):
        seen.append(part.images)
        assert part.arrays == {"features": part.images}
        assert len(begun) - len(seen) <= 2 * (threads + 1)
    assert sorted(seen, key=lambda part: part.start) == parts
    assert torch.get_num_threads() == before


def by_images(parts):
    return {part.images: part.arrays for part in parts}


def test_the_time_left_is_right_from_the_start_whatever_came_before_and_is_done_side_by_side(monkeypatch, caplog):
    caplog.set_level("INFO")
    now = [0.0]
    monkeypatch.setattr(encoding.time, "monotonic", lambda: now[0])
    progress = encoding.Progress("photos", "ViT", samples=10_000, missing=6400)
    now[0] = 120.0  # processes have started, and the first part of sixteen is done after six seconds
    progress.add(64, 6.0 / 16)
    assert caplog.messages[-1] == "encoding photos: 3664/10000 images, 171 images/s, 0m37s left"
    now[0] = 121.0
    progress.add(64, 6.0 / 16)
    assert len(caplog.messages) == 2, "a line every few seconds"


@pytest.mark.parametrize(("parts", "threads", "seconds"), [(4, 1, 6.0), (4, 2, 3.0), (1, 16, 6.0)])
def test_a_part_costs_its_time_divided_by_those_at_work_side_by_side(monkeypatch, parts, threads, seconds):
    clocks = threading.local()

    def six_seconds_later():
        clocks.now = getattr(clocks, "now", 0.0) + 6.0
        return clocks.now

    monkeypatch.setattr(image_encoder.time, "perf_counter", six_seconds_later)
    parts = [range(start, start + 2) for start in range(0, 2 * parts, 2)]
    assert {part.seconds for part in encode_in_threads(lambda part: {}, parts, threads)} == {seconds}


# Several processes


class SlowReader(Reader):
    """Tells that it was asked, and then takes its time."""

    def __init__(self, begun, seconds_event):
        super().__init__()
        self.begun, self.go_on = begun, seconds_event

    def __call__(self, index):
        if index >= 2 * PART:
            self.begun.set()
            self.go_on.wait(60)
        return super().__call__(index)


def encode_slowly(folder: Path, begun, go_on) -> None:
    torch.set_num_threads(1)
    encode(folder, SlowReader(begun, go_on))


@pytest.mark.slow
def test_a_second_process_waits_and_uses_what_the_first_one_made(tmp_path, monkeypatch):
    begun, go_on = spawn.Event(), spawn.Event()
    first = spawn.Process(target=encode_slowly, args=(tmp_path, begun, go_on))
    first.start()
    assert begun.wait(100)
    monkeypatch.setattr(encoding.logger, "info", lambda text, *values: (notes.append(text % values), go_on.set()))
    notes, reader = [], Reader()
    path = encode(tmp_path, reader)["features"]
    first.join()
    assert first.exitcode == 0
    assert notes == ["another process is encoding made-up with stand-in: waiting for it"]
    assert reader.read == []
    np.testing.assert_array_equal(open_features(path).features[:, 0], np.arange(SAMPLES))


@pytest.mark.slow
def test_a_killed_encoder_is_not_in_the_way_and_its_parts_are_used(tmp_path):
    begun, never = spawn.Event(), spawn.Event()
    first = spawn.Process(target=encode_slowly, args=(tmp_path, begun, never))
    first.start()
    assert begun.wait(100)
    while not list(tmp_path.glob("*/journal.jsonl")):
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".encoding", ".lock"]
    reader = Reader()
    path = encode(tmp_path, reader)["features"]
    assert min(reader.read) >= PART  # at least the first part was on disk
    np.testing.assert_array_equal(open_features(path).features[:, 0], np.arange(SAMPLES))
    assert [path.suffix for path in tmp_path.iterdir()] == [".arrow"]


def encode_within(folder: Path, mebibytes: int) -> None:
    torch.set_num_threads(1)
    encoding.PART = 8
    encode(folder / "warm-up", Reader())
    status = Path("/proc/self/status").read_text()
    used = int(re.search(r"VmData:\s+(\d+)", status).group(1)) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (used + mebibytes * 2**20, resource.RLIM_INFINITY))
    reader = Reader()
    encode(folder, reader, dataset=made_up_dataset(reader, 320), backbone=made_up_backbone(dim=2**17))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    process = spawn.Process(target=encode_within, args=(tmp_path, 80))
    process.start()
    process.join()
    assert process.exitcode == 0
    (path,) = tmp_path.glob("*.arrow")
    assert path.stat().st_size > 160 * 2**20  # twice what it was made with


def test_a_lock_is_given_to_one_after_the_other_and_leaves_nothing(tmp_path):
    waited = []
    with locked(tmp_path / "x.lock", lambda: waited.append("first")):
        assert (tmp_path / "x.lock").exists()
    with locked(tmp_path / "x.lock", lambda: waited.append("second")):
        pass
    assert waited == []
    assert list(tmp_path.iterdir()) == []


# From the job to the clients


@pytest.mark.slow
@pytest.mark.ray
def test_processes_of_a_cluster_give_the_same_bits_and_errors(ray_session, tmp_path):
    from promptfleet.features.ray_encoding import Encoders, NoEncoder, encode_on_ray, plan_encoders

    assert plan_encoders(100, "auto") is None  # four CPUs: no more than this process has itself
    for seed in range(12):
        write_image(tmp_path / "photos" / "train" / f"class {seed % 2}" / f"{seed}.png", seed)
    (tmp_path / "photos" / "train" / "class 1" / "z.png").write_bytes(b"no image")
    config = federation_config({"dataset": "imagefolder", "data": {"root": str(tmp_path), "folder": "photos"}})
    dataset, backbone = load_inputs(config)
    content = {"backbone": backbone.fingerprint, "dataset": dataset.fingerprint}
    parts = [range(start, start + 3) for start in range(0, 12, 3)]
    encoders = Encoders(processes=2, threads=1, cpus=1.0, gpus=0.0)
    found = by_images(encode_on_ray(config, ["features", "patches"], content, parts, encoders))
    assert sorted(found, key=lambda part: part.start) == parts
    encoder = Encoder(backbone, dataset, ["features", "patches"], 0, torch.device("cpu"))
    for part in encode_in_threads(encoder, parts, 1):
        for kind, array in part.arrays.items():
            np.testing.assert_array_equal(found[part.images][kind], array)
    encoders = replace(encoders, processes=1)
    with pytest.raises(DataError, match=r"z\.png"):
        list(encode_on_ray(config, ["features"], content, [range(3), range(12, 13)], encoders))
    with pytest.raises(NoEncoder, match=r"DataError: node .* has another imagefolder or glyph-clip"):
        list(encode_on_ray(config, ["features"], {**content, "backbone": "x"}, parts, encoders))


def test_images_are_encoded_in_this_process_where_no_node_can(tmp_path, monkeypatch, caplog):
    from promptfleet.features import ray_encoding

    def encode_on_ray(*arguments):
        raise ray_encoding.NoEncoder("DataError: data/photos: there is no such folder")
        yield

    for seed in range(4):
        write_image(tmp_path / "photos" / "train" / f"class {seed % 2}" / f"{seed}.png", seed)
    config = federation_config({"dataset": "imagefolder", "data": {"root": str(tmp_path), "folder": "photos"}})
    dataset, backbone = load_inputs(config)
    parts = [range(2), range(2, 4)]
    expected = by_images(encoding._encoded(config, backbone, dataset, ["features"], parts))
    monkeypatch.setattr(encoding, "ray_runs", lambda: True)
    monkeypatch.setattr(ray_encoding, "plan_encoders", lambda parts, device: ray_encoding.Encoders(2, 1, 1.0, 0.0))
    monkeypatch.setattr(ray_encoding, "encode_on_ray", encode_on_ray)
    found = by_images(encoding._encoded(config, backbone, dataset, ["features"], parts))
    assert found.keys() == expected.keys() == set(parts)
    for part in parts:
        np.testing.assert_array_equal(found[part]["features"], expected[part]["features"])
    assert "no node can: DataError: data/photos: there is no such folder" in caplog.text


def anonymous_mib() -> float:
    """This process's share of memory that is no file's."""
    return int(re.search(r"Pss_Anon:\s+(\d+)", Path("/proc/self/smaps_rollup").read_text()).group(1)) / 1024


@pytest.mark.slow
def test_a_hundred_clients_get_their_parts_at_once_and_none_copies_the_matrix(tmp_path):
    samples, dim, clients = 60_000, 512, 100
    rng = np.random.default_rng(0)
    path = write_features(
        tmp_path, {"x": "random"}, rng.random((samples, dim), dtype=np.float32), np.arange(samples) % 10
    )
    split = np.sort(rng.permutation(samples).reshape(clients, -1), axis=1)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        store = open_store(path)
        for indices in split:
            images_of(store, indices, Needs.GLOBAL, torch.device("cpu"))
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 1
    before = anonymous_mib()
    hosted = [images_of(open_store(path), indices, Needs.GLOBAL, torch.device("cpu")) for indices in split[:10]]
    assert anonymous_mib() - before < 20  # the ten clients' own rows are 12 MiB, the matrix has 117
    np.testing.assert_array_equal(hosted[7].features, open_store(path).features[split[7]])


@pytest.mark.slow
def test_a_first_round_from_the_store_decodes_no_image(tmp_path, monkeypatch):
    settings = {"clients": 3, "rounds": 1, "runtime": {"backend": "local"}, "storage": {"path": str(tmp_path)}}
    read = []

    def load(*args):
        dataset = load_dataset(*args)
        return replace(dataset, read_image=lambda index: read.append(index) or dataset.read_image(index))

    monkeypatch.setattr("promptfleet.features.image_encoder.load_dataset", load)
    first = run_federation(settings)
    assert sorted(read) == list(range(1797))
    read.clear()
    again = run_federation(settings)
    assert read == []
    assert again.state_sha256 == first.state_sha256
