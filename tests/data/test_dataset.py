import numpy as np
import pytest

from promptfleet.data.dataset import Dataset, Part
from promptfleet.data.datasets import load_dataset
from promptfleet.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits", "no/such/folder")


def make(**changes) -> Dataset:
    values = {
        "name": "made-up",
        "class_names": ("cat", "dog"),
        "labels": np.array([0, 1, 1]),
        "read_image": lambda index: None,
        "templates": ("a photo of a {}.",),
        "fingerprint": "0",
    }
    return Dataset(**{**values, **changes})


def test_digits_are_all_there(digits):
    assert len(digits) == 1797
    assert digits.labels.dtype == np.int64
    assert np.bincount(digits.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # sklearn's docs
    assert digits.class_names[digits.labels[0]] == "zero"
    assert digits.domains is None


def test_digits_images_are_grey_and_span_the_full_range(digits):
    image = digits.read_image(0)
    assert (image.mode, image.size) == ("L", (8, 8))
    # First row of scikit-learn's first digit is 0 0 5 13 9 1 0 0, of 16; 5 * 255 / 16 = 79.7.
    assert np.asarray(image)[0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]
    assert max(np.asarray(digits.read_image(i)).max() for i in range(10)) == 255


def test_fingerprint_is_stable(digits):
    assert digits.fingerprint == load_dataset("digits", ".").fingerprint
    assert len(digits.fingerprint) == 64


def test_unknown_dataset_names_the_nearest():
    with pytest.raises(ConfigError, match=r"^unknown dataset 'digit'; did you mean 'digits'\?$"):
        load_dataset("digit", ".")


def test_unknown_dataset_far_from_all_lists_them():
    with pytest.raises(ConfigError, match=r"there are: digits"):
        load_dataset("xyz", ".")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.array([0, 2])}, r"labels span 0\.\.2 but there are 2 label names"),
        ({"labels": np.array([-1, 0])}, r"labels span -1\.\.0"),
        ({"labels": np.array([0.0])}, r"labels are float64 \(1,\), should be int64"),
        ({"domains": np.array([0, 0, 0])}, r"domains span 0\.\.0 but there are 0 domain names"),
        ({"domains": np.array([0]), "domain_names": ("sketch",)}, "3 labels but 1 domains"),
        ({"official": np.array([0, 1, 3])}, r"parts span 0\.\.3 but there are 3 part names"),
        ({"official": np.array([0, 1])}, "3 labels but 2 parts"),
        ({"templates": ("a photo.",)}, r"template 'a photo\.' needs exactly one \{\}"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(DataError, match=f"dataset made-up: {message}"):
        make(**changes)


def test_domains_are_kept():
    dataset = make(domains=np.array([1, 0, 1]), domain_names=("photo", "sketch"))
    assert dataset.domains.tolist() == [1, 0, 1]


def test_the_parts_of_the_original_split_are_kept():
    assert make().official is None
    assert make(official=np.array([Part.TEST, Part.TRAIN, Part.VAL])).official.tolist() == [2, 0, 1]
