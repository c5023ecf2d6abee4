"""Any file that is read, from strangers or from a damaged disk: it is read, or refused in one line that says why.

Nothing in it is executed, and no memory is taken that the file's size does not explain. PROMPTFLEET_EXAMPLES=10000
tries that many of each kind instead of the few that a usual run has time for.
"""

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from promptfleet.clip.checkpoint import read_weights
from promptfleet.data.dataset import Part
from promptfleet.data.datasets.cifar import _batch, _class_names
from promptfleet.data.datasets.fedbn import _read_pair
from promptfleet.data.datasets.oxford_flowers import _read_mat
from promptfleet.data.feature_store import open_features
from promptfleet.data.image_files import read_image_file
from promptfleet.data.partial_rows import PartialRows
from promptfleet.data.partition_file import load_partition
from promptfleet.data.split_files import read_class_lists, read_coop_split
from promptfleet.errors import PromptfleetError
from promptfleet.federation.checkpoints.checkpoint import read_checkpoint
from promptfleet.federation.checkpoints.folder import load_summary
from promptfleet.yaml_files import read_yaml
from tests import mutated_files as files
from tests.comparison.values import make_summary
from tests.mutated import refused_in_one_line

EXAMPLES = int(os.environ.get("PROMPTFLEET_EXAMPLES", "10"))
GIGABYTE = 2**30
FORBIDDEN = re.compile(
    r"os\.(system|exec|fork|forkpty|posix_spawn|spawn|startfile)|subprocess\.Popen|socket\.connect|pty\.spawn"
)

many = settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
pytestmark = [pytest.mark.timeout(60 + 10 * EXAMPLES), pytest.mark.filterwarnings("ignore")]
executed: list[str] = []
watching = False


def _watch(event: str, _: object) -> None:
    if watching and FORBIDDEN.match(event):
        executed.append(event)


sys.addaudithook(_watch)


@pytest.fixture(autouse=True)
def nothing_is_executed_and_little_memory_taken() -> Iterator[None]:
    global watching
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = _peak_bytes()
    watching = True
    yield
    watching = False
    assert executed == []
    assert _peak_bytes() - before < GIGABYTE


def _peak_bytes() -> int:
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("mutated")


def read_or_refused(read: Callable[[Path], object], path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        read(path)
    except PromptfleetError as error:
        refused_in_one_line(error)


@pytest.fixture(scope="module")
def weights(folder) -> dict[str, bytes]:
    return files.weight_files(folder)


@many
@given(data=st.data())
def test_weights(folder, weights, data):
    archives = [content for name, content in weights.items() if name in ("torch", "checkpoint", "script")]
    content = data.draw(
        st.one_of(
            files.archives(archives),
            files.archives(archives),
            files.headers([weights["safetensors"]]),
            files.damaged([weights["old"]]),
            files.damaged(list(weights.values())),
        )
    )
    read_or_refused(read_weights, folder / "weights.pt", content)


def _read_dataset_s_pickle(path: Path) -> None:
    for read in (
        lambda: _batch(path, "fine_labels", 2, path),
        lambda: _class_names(path, "filenames"),
        lambda: _read_pair(path),
    ):
        try:
            read()
        except PromptfleetError as error:
            refused_in_one_line(error)


@many
@given(content=files.damaged(files.pickles()))
def test_pickles(folder, content):
    read_or_refused(_read_dataset_s_pickle, folder / "train", content)


@many
@given(content=files.damaged(files.matlab_files()))
def test_matlab_files(folder, content):
    read_or_refused(lambda path: _read_mat(path, "labels"), folder / "labels.mat", content)


@many
@given(data=st.data())
def test_feature_stores(folder, features, data):
    read_or_refused(open_features, folder / "features.arrow", data.draw(files.damaged([features])))


@pytest.fixture(scope="module")
def features(folder) -> bytes:
    return files.feature_file(folder)


PARTITION = b"""{"format": "promptfleet-partition", "version": 1, "dataset": "digits", "samples": 9, "classes": 2,
"clients": [{"train": [0, 1], "val": [2], "test": [3]}, {"train": [4], "val": [5], "test": [6, 7]}]}"""
SPLIT = b"""{"train": [["a/1.jpg", 0, "a"], ["b/1.jpg", 1, "b"]], "val": [["a/2.jpg", 0, "a"]],
"test": [["b/2.jpg", 1, "b"]]}"""
LISTS = [b"a/1\n# a comment\nb/2\n", "über/ä\n".encode(), b"Abyssinian_100 1 1 1\n"]


@many
@given(content=st.one_of(files.texts([PARTITION]), files.damaged([PARTITION])))
def test_partitions(folder, content):
    read_or_refused(load_partition, folder / "partition.json", content)


@many
@given(content=st.one_of(files.texts([SPLIT]), files.damaged([SPLIT])))
def test_published_splits(folder, content):
    read_or_refused(read_coop_split, folder / "split.json", content)


@many
@given(content=files.damaged(LISTS))
def test_lists_of_images(folder, content):
    read_or_refused(lambda path: read_class_lists({Part.TRAIN: path}), folder / "train.txt", content)


@pytest.fixture(scope="module")
def result() -> bytes:
    return make_summary([0.1, 0.2, 0.3]).to_json().encode()


@many
@given(data=st.data())
def test_results(folder, result, data):
    content = data.draw(st.one_of(files.texts([result]), files.damaged([result])))
    read_or_refused(lambda path: load_summary(path.parent, "x"), folder / "result.json", content)


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    return files.checkpoint_file(tmp_path_factory.mktemp("kept"))


@many
@given(data=st.data())
def test_checkpoints(kept, data):
    path = data.draw(st.sampled_from([kept, *kept.parent.glob("privates-*")]))
    whole = path.read_bytes()
    content = data.draw(
        st.one_of(files.headers([whole]), files.damaged([whole]), *([files.checkpoints(kept)] if path == kept else []))
    )
    read_or_refused(lambda _: read_checkpoint(kept, "x"), path, content)
    path.write_bytes(whole)


@many
@given(content=files.damaged([b"clients: 3\nmethods: &a [1, {b: 1e-3}]\npartition:\n  kind: iid\n  more: *a\n"]))
def test_yaml(folder, content):
    read_or_refused(read_yaml, folder / "config.yaml", content)


@many
@given(content=files.damaged(files.images()))
def test_images(folder, content):
    read_or_refused(lambda path: read_image_file([str(path)], 0), folder / "1.jpg", content)


@many
@given(data=st.data())
def test_half_encoded_images(folder, data):
    """Parts that the journal does not name as they were put count as missing."""
    shutil.rmtree(folder / "encoding", ignore_errors=True)
    rows = PartialRows(folder / "encoding", 6, "float32")
    for part in (range(2), range(2, 6)):
        rows.put(part, np.full((len(part), 3), part.start, np.float32))
    journal = folder / "encoding" / "journal.jsonl"
    lines = [line for line in journal.read_bytes().splitlines() if line]
    content = data.draw(st.one_of(files.texts(lines), files.damaged(lines), files.damaged([b"\n".join(lines)])))
    journal.write_bytes(content)
    again = PartialRows(folder / "encoding", 6, "float32")
    for part in (range(2), range(2, 6)):
        if not again.has(part):
            again.put(part, np.full((len(part), 3), part.start, np.float32))
    assert again.array().tolist() == [[0.0] * 3] * 2 + [[2.0] * 3] * 4
