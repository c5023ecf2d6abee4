import socket
import urllib.error
from pathlib import Path

import pytest
import torchvision.datasets

from promptfleet.data.datasets import load_dataset
from promptfleet.data.download import MADE, STALLED_S, download_dataset
from promptfleet.data.sources import SOURCES
from promptfleet.errors import DataError
from promptfleet.federation.other_datasets import download_datasets
from promptfleet.federation.settings import federation_config
from tests.samples import write_dtd


def test_what_torchvision_makes_becomes_the_dataset_s_folder(tmp_path, monkeypatch, capsys):
    def fetch(root: str, download: bool) -> None:
        assert download
        assert socket.getdefaulttimeout() == STALLED_S
        print("Downloading")
        write_dtd(Path(root) / "dtd", per_part=1)
        (Path(root) / "dtd" / "dtd" / "dtd.tar.gz").write_text("archive")

    monkeypatch.setattr(torchvision.datasets, "DTD", fetch)
    root = tmp_path / "data"
    download_dataset("dtd", root)
    assert len(load_dataset("dtd", root)) == 9
    assert sorted(path.name for path in root.iterdir()) == ["dtd"]
    assert sorted(path.name for path in (root / "dtd").iterdir()) == ["images", "labels"]
    assert socket.getdefaulttimeout() is None
    assert capsys.readouterr().out == ""


def test_cifar_keeps_its_inner_folder(tmp_path, monkeypatch):
    def fetch(root: str, download: bool) -> None:
        (Path(root) / "cifar-10-batches-py").mkdir()
        (Path(root) / "cifar-10-python.tar.gz").write_text("archive")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fetch)
    download_dataset("cifar10", tmp_path, "mine/cifar")
    assert [path.name for path in (tmp_path / "mine" / "cifar").iterdir()] == ["cifar-10-batches-py"]
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_the_datasets_that_prompts_are_tested_on_are_downloaded_too(tmp_path, monkeypatch):
    def fetch(root: str, download: bool) -> None:
        write_dtd(Path(root) / "dtd", per_part=1)

    monkeypatch.setattr(torchvision.datasets, "DTD", fetch)
    values = {"evaluation": {"transfer": ["dtd"]}, "data": {"root": str(tmp_path), "folder": "mine"}}
    download_datasets(federation_config({"method": "promptfl", **values}))
    assert [path.name for path in tmp_path.iterdir()] == ["dtd"]


def test_without_a_network_it_says_where_to_get_the_files(tmp_path, monkeypatch):
    def fetch(root: str, download: bool) -> None:
        (Path(root) / "half").write_text("")
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(torchvision.datasets, "Food101", fetch)
    with pytest.raises(DataError) as error:
        download_dataset("food101", tmp_path)
    assert str(error.value).startswith(
        f"food101 could not be downloaded (<urlopen error no route>); put images/ and split_zhou_Food101.json or "
        f"meta/{{train,test}}.txt into {tmp_path}/food101, from http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["domainnet", "office_caltech10", "imagefolder"])
def test_what_nobody_serves_is_refused_at_once(tmp_path, name):
    with pytest.raises(DataError, match=f"^{name} cannot be downloaded from here; put "):
        download_dataset(name, tmp_path)


def test_a_folder_that_is_there_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.delattr(torchvision.datasets, "Food101")
    (tmp_path / "food-101").mkdir()
    download_dataset("food101", tmp_path)
    download_dataset("digits", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["food-101"]


def test_every_fetcher_exists():
    fetchers = {name: source.fetcher for name, source in SOURCES.items() if source.fetcher}
    assert set(MADE) == set(fetchers)
    assert all(hasattr(torchvision.datasets, fetcher) for fetcher in fetchers.values())


def test_a_root_that_cannot_be_written_is_refused_first(tmp_path):
    (tmp_path / "file").write_text("no folder")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DataError, match=rf"^data\.root={root}: cannot be written \(Not a directory\); there is"):
            download_dataset("dtd", root)
