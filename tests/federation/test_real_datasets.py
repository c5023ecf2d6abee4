"""A short federation on every dataset, from real files to accuracies."""

from pathlib import Path

import numpy as np
import pytest

from promptfleet.data.datasets import load_dataset
from promptfleet.federation.run import run_federation
from promptfleet.federation.settings import federation_config
from tests.samples import SAMPLES, needs_samples, write_domainnet, write_dtd, write_images

pytestmark = pytest.mark.slow


def check(tmp_path: Path, name: str, root: Path) -> None:
    """Run one round of two clients, who share out all samples between them."""
    values = {
        "dataset": name,
        "data": {"root": str(root)},
        "clients": 2,
        "rounds": 1,
        "local_epochs": 1,
        "batch_size": 512,
        "prompt_length": 2,
        "experts": 1,
        "partition": {"kind": "iid"},
        "runtime": {"backend": "local"},
        "storage": {"path": str(tmp_path / "results")},
    }
    result = run_federation(federation_config(values))
    dataset = load_dataset(name, root)
    held = np.sum([client.label_counts for client in result.clients], axis=0)
    assert held.tolist() == np.bincount(dataset.labels, minlength=len(dataset.class_names)).tolist()
    assert tuple(result.class_names) == dataset.class_names
    assert result.rounds[0].train_loss > 0
    assert not result.rounds[0].rejected
    # glyph-clip knows print, not photographs: no figure to reach, but neither all right nor all wrong
    assert 0 < result.test_accuracy < 1


@needs_samples
@pytest.mark.parametrize(
    "name", ["cifar10", "cifar100", "caltech101", "oxford_pets", "oxford_flowers", "food101", "office_caltech10"]
)
def test_real_samples(tmp_path, name):
    check(tmp_path, name, SAMPLES)


def test_dtd(tmp_path):
    write_dtd(tmp_path, per_part=10)
    check(tmp_path, "dtd", tmp_path)


def test_domainnet(tmp_path):
    write_domainnet(tmp_path, per_part=4)
    check(tmp_path, "domainnet", tmp_path)


def test_an_imagefolder(tmp_path):
    paths = [f"{part}/{name}/{number}.png" for part in ("train", "test") for name in "abc" for number in range(10)]
    write_images(tmp_path / "imagefolder", paths)
    check(tmp_path, "imagefolder", tmp_path)


def test_digits_styles(tmp_path):
    check(tmp_path, "digits_styles", tmp_path)
