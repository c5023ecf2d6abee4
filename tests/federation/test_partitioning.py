"""The partition that a configuration asks for: drawn, or from a file."""

import json

import pytest

from promptfleet.config import fingerprint_of
from promptfleet.data.partition_file import load_partition, save_partition
from promptfleet.errors import ConfigError, DataError
from promptfleet.federation.partitioning import partition_for
from promptfleet.federation.settings import federation_config
from tests.data.partitions import made_up_labels, made_up_samples, partition

SAMPLES = made_up_samples(made_up_labels(3, 20))


def config(**section):
    return federation_config({"clients": 4, "experts": 1, "dataset": "made-up", "partition": section})


@pytest.fixture
def file(tmp_path):
    def write(name="a.json", seed=5):
        save_partition(
            tmp_path / name, partition(SAMPLES, 4, seed, kind="iid"), SAMPLES, dataset="made-up", made_with={}
        )
        return str(tmp_path / name)

    return write


def test_a_file_takes_the_place_of_the_scheme(file):
    made = partition_for(config(file=file(), kind="pathological"), SAMPLES)
    assert made.fingerprint() == partition(SAMPLES, 4, 5, kind="iid").fingerprint()


def test_a_configuration_stands_for_the_files_content(file, monkeypatch, tmp_path):
    one, same, other = config(file=file("a.json")), config(file=file("b.json")), config(file=file("c.json", seed=6))
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()
    monkeypatch.chdir(tmp_path)
    relative = config(file="a.json")
    assert relative == one, "the path is made absolute"
    written = json.loads(json.dumps(relative.to_dict()))
    monkeypatch.chdir("/")
    assert federation_config(written) == one
    assert fingerprint_of(written) == one.fingerprint()


def test_a_file_that_was_changed_meanwhile(file):
    made = config(file=file())
    file(seed=6)
    with pytest.raises(DataError, match=r"changed, it is not the one that partition\.fingerprint names"):
        partition_for(made, SAMPLES)


def test_files_that_cannot_be_used(file, tmp_path):
    with pytest.raises(DataError, match=r"no\.json: there is no such file$"):
        config(file=str(tmp_path / "no.json"))
    with pytest.raises(DataError, match=r"has 4 clients; set clients to 4"):
        partition_for(config(file=file()).model_copy(update={"clients": 3}), SAMPLES)
    with pytest.raises(ConfigError, match=r"partition\.fingerprint needs partition\.file; leave it out"):
        config(fingerprint="0")


def test_without_a_file_nothing_is_read():
    made = config(kind="iid")
    assert (made.partition.file, made.partition.fingerprint) == (None, None)
    assert partition_for(made, SAMPLES).fingerprint() == partition(SAMPLES, 4, 0, kind="iid").fingerprint()
    with pytest.raises(ConfigError, match=r"partition\.file: got 3"):
        config(file=3)


def test_the_file_is_read_back_as_it_was_loaded(file):
    assert load_partition(file()).partition.fingerprint() == config(file=file()).partition.fingerprint
