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
        ("", "damaged, or no partition (Invalid JSON: EOF while parsing a value at line 1 column 0)"),
        ("{}", "no partition, its 'format' should be 'promptfleet-partition'"),
        ("[" * 200_000, "damaged, or no partition (Invalid JSON: recursion limit exceeded at line 1 column 202)"),
        ('{"format": "promptfleet-partition", "version": 2}', "format version 2, this promptfleet reads 1"),
        ('{"format": "promptfleet-partition", "version": 1}', "damaged, or no partition (dataset: Field required)"),
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
        ({"train": [1, 2], "val": [0], "test": [4]}, "sample 0 is assigned twice, the second time to client 1"),
        ({"train": [1, 2], "val": [1], "test": [4]}, "sample 1 is assigned twice, the second time to client 1"),
        ({"train": [1, 1], "val": [2], "test": [4]}, "sample 1 is assigned twice, the second time to client 1"),
        (
            {"train": [[1]], "val": [2], "test": [4]},
            "damaged, or no partition (clients.1.train.0: Input should be a valid integer)",
        ),
        ({"train": [1]}, "damaged, or no partition (clients.1.val: Field required)"),
        ({"train": [1], "val": [2], "test": [3], "more": [4]}, "(clients.1.more: Unexpected keyword argument)"),
    ],
)
def test_what_no_partition_may_be(path, second, complaint):
    rewrite(path, clients=[{"train": [0], "val": [10], "test": [20]}, second])
    assert complaint in refusal(path)


@pytest.mark.parametrize("number", [0.7, 1.0, "0", True, None, -1, 10**30, [0], {}])
@pytest.mark.parametrize("key", ["samples", "classes", "clients"])
def test_only_integers_from_0_on_are_numbers(path, key, number):
    value = [{"train": [0], "val": [10], "test": [number]}] if key == "clients" else number
    assert refusal(rewrite(path, **{key: value})).startswith(f"{path}: damaged, or no partition ({key}")


def test_claimed_numbers_take_no_memory(path):
    """``samples`` of 1e18 would be eight exabytes."""
    clients = [{"train": [0], "val": [10**17], "test": [10**18 - 1]}]
    assert load_partition(rewrite(path, samples=10**18, clients=clients)).samples == 10**18
    with pytest.raises(DataError, match="made for made-up with 1000000000000000000 samples"):
        check_fits(load_partition(path), path, SAMPLES, dataset="made-up", clients=1)
    clients[0]["val"] = clients[0]["test"]
    assert "sample 999999999999999999 is assigned twice" in refusal(rewrite(path, clients=clients))


def test_a_partition_has_clients(path):
    assert "(clients: List should have at least 1 item" in refusal(rewrite(path, clients=[]))


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


def test_public_samples_are_in_the_file_and_are_checked(tmp_path):
    path, made = tmp_path / "partition.json", partition(SAMPLES, 2, kind="iid", public_fraction=0.2)
    save_partition(path, made, SAMPLES, dataset="made-up", made_with={})
    loaded = load_partition(path).partition
    assert np.array_equal(loaded.public, made.public)
    assert loaded.fingerprint() == made.fingerprint()
    sample = int(made.clients[1].val[0])
    again = refusal(rewrite(path, public=[*made.public.tolist(), sample]))
    assert again == f"{path}: sample {sample} is assigned twice, the second time to the public part"
    assert refusal(rewrite(path, public=[30])) == f"{path}: 'public' has sample 30, there are 30"
