import json

import numpy as np
import pytest

from promptfleet.data.partition_file import check_fits, load_partition, save_partition
from promptfleet.errors import DataError
from tests.data.partitions import made_up_labels, made_up_samples, partition

SAMPLES = made_up_samples(made_up_labels(3, 10))


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "folder" / "partition.json"
    save_partition(path, partition(SAMPLES, 2, kind="iid"), SAMPLES, dataset="made-up", made_with={"seed": 0})
    return path


def rewrite(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), "fingerprint": None, **changes}))
    return path


def refusal(path) -> str:
    with pytest.raises(DataError) as caught:
        load_partition(path)
    return str(caught.value)


def test_what_is_saved_is_loaded(path):
    made, stored = partition(SAMPLES, 2, kind="iid"), load_partition(path)
    assert stored.partition.fingerprint() == made.fingerprint()
    assert (stored.dataset, stored.samples, stored.classes) == ("made-up", 30, 3)
    assert stored.partition.clients[1].val.dtype == np.int64
    assert json.loads(path.read_text())["made_with"] == {"seed": 0}
    assert [entry.name for entry in path.parent.iterdir()] == ["partition.json"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "damaged (Expecting value: line 1 column 1 (char 0))"),
        ("[]", "no partition, its 'format' should be 'promptfleet-partition'"),
        ('{"format": "promptfleet-partition", "version": 2}', "format version 2, this promptfleet reads 1"),
        ('{"format": "promptfleet-partition", "version": 1}', "damaged, 'dataset' is missing"),
    ],
)
def test_another_file_is_refused(path, text, complaint):
    path.write_text(text)
    assert refusal(path) == f"{path}: {complaint}"


def test_a_missing_file_and_a_folder(path):
    assert refusal(path.with_name("no.json")) == f"{path.with_name('no.json')}: there is no such file"
    assert refusal(path.parent) == f"{path.parent}: cannot be read (Is a directory)"


@pytest.mark.parametrize(
    ("second", "complaint"),
    [
        ({"train": [1, 2], "val": [3], "test": []}, "client 1 has no samples in 'test'"),
        ({"train": [1, 30], "val": [3], "test": [4]}, "client 1 has sample 30 in 'train', there are 30"),
        ({"train": [1, 2], "val": [0], "test": [4]}, "sample 0 stands twice, the second time with client 1"),
        ({"train": [1, 2], "val": [1], "test": [4]}, "sample 1 stands twice, the second time with client 1"),
        ({"train": [1, 1], "val": [2], "test": [4]}, "sample 1 stands twice, the second time with client 1"),
        ({"train": [[1]], "val": [2], "test": [4]}, "client 1: 'train' is no list of samples"),
        ({"train": [1]}, "not a partition"),
    ],
)
def test_what_no_partition_may_be(path, second, complaint):
    rewrite(path, clients=[{"train": [0], "val": [10], "test": [20]}, second])
    assert complaint in refusal(path)


def test_a_changed_file_is_noticed_and_a_handmade_one_taken(path):
    clients = json.loads(path.read_text())["clients"]
    clients[0]["train"].pop()
    found = json.loads(path.read_text())["fingerprint"]
    assert refusal(rewrite(path, clients=clients, fingerprint=found)).startswith(
        f"{path}: changed since it was written"
    )
    assert load_partition(rewrite(path, clients=clients)).partition.fingerprint() != found


def test_it_must_be_for_this_dataset_and_as_many_clients(path):
    stored = load_partition(path)
    check_fits(stored, path, SAMPLES, dataset="made-up", clients=2)
    with pytest.raises(DataError) as caught:
        check_fits(stored, path, made_up_samples(made_up_labels(2, 10)), dataset="made-up", clients=2)
    assert str(caught.value) == (
        f"partition.file={path}: made for made-up with 30 samples and 3 classes, this federation has made-up with 20 "
        "samples and 2 classes"
    )
    with pytest.raises(DataError, match=r"has 2 clients; set clients to 2 \(found clients=3\)$"):
        check_fits(stored, path, SAMPLES, dataset="made-up", clients=3)
    with pytest.raises(DataError, match=r"made for made-up .* this federation has other"):
        check_fits(stored, path, SAMPLES, dataset="other", clients=2)
