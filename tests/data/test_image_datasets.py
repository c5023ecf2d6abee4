"""Every dataset of images: its layout, its split, its names, and what is said when something is wrong with it."""

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from promptfleet.data.dataset import Dataset, Part
from promptfleet.data.datasets import LOADERS, load_dataset
from promptfleet.data.datasets.fedbn import DOMAINNET_CLASSES, OFFICE_CLASSES
from promptfleet.data.image_files import read_image_file
from promptfleet.data.sources import SOURCES
from promptfleet.errors import DataError
from tests.samples import (
    SAMPLES,
    needs_samples,
    paths_of,
    refusal,
    write_domainnet,
    write_dtd,
    write_image,
    write_images,
)


def names_by_file(dataset: Dataset, part: Part | None = None) -> dict[str, str]:
    """File name to class name, of one part or of all samples."""
    rows = range(len(dataset)) if part is None else np.flatnonzero(dataset.official == part)
    paths = paths_of(dataset)
    return {Path(paths[row]).name: dataset.class_names[dataset.labels[row]] for row in rows}


def linked(name: str, to: Path, *leave_out: str) -> Path:
    """The sample of ``name`` in another root, without some files."""
    folder = to / name
    folder.mkdir()
    for entry in (SAMPLES / name).iterdir():
        if entry.name not in leave_out:
            (folder / entry.name).symlink_to(entry)
    return folder


@needs_samples
@pytest.mark.parametrize(
    ("name", "parts", "classes", "first_names", "template"),
    [
        ("cifar10", [4000, 0, 1000], 10, ("airplane", "automobile"), "a photo of a {}."),
        ("cifar100", [4000, 0, 1000], 100, ("apple", "aquarium fish"), "a photo of a {}."),
        ("caltech101", [417, 147, 236], 20, ("face", "leopard", "motorbike"), "a photo of a {}."),
        ("oxford_pets", [106, 23, 120], 20, ("abyssinian", "american bulldog"), "a photo of a {}, a type of pet."),
        ("oxford_flowers", [360, 140, 220], 20, ("monkshood", "king protea"), "a photo of a {}, a type of flower."),
        ("food101", [144, 60, 84], 6, ("apple pie", "baklava"), "a photo of {}, a type of food."),
        ("office_caltech10", [554, 0, 138], 10, ("back pack", "bike"), "a photo of a {}."),
    ],
)
def test_the_real_samples(name, parts, classes, first_names, template):
    """Counts are those of the samples' own description."""
    dataset = load_dataset(name, SAMPLES)
    assert np.bincount(dataset.official, minlength=3).tolist() == parts
    assert len(dataset.class_names) == classes == len(np.unique(dataset.labels))
    assert dataset.class_names[: len(first_names)] == first_names
    assert dataset.templates == (template,)
    assert {dataset.read_image(row).mode for row in range(0, len(dataset), 60)} <= {"RGB", "L"}
    assert len(dataset.fingerprint) == 64


@pytest.mark.slow
@needs_samples
def test_cifar_pixels_labels_and_parts_are_those_of_the_same_images_as_files():
    pickled = load_dataset("cifar10", SAMPLES)
    files = load_dataset("imagefolder", SAMPLES, "cifar10/imagefolder")
    assert files.class_names == pickled.class_names
    assert np.bincount(files.official).tolist() == [4000, 0, 1000]
    known = {
        pickled.read_image(row).tobytes(): (pickled.labels[row], pickled.official[row]) for row in range(len(pickled))
    }
    for row in range(0, len(files), 50):
        assert known[files.read_image(row).tobytes()] == (files.labels[row], files.official[row])


@needs_samples
def test_office_has_its_domains():
    dataset = load_dataset("office_caltech10", SAMPLES)
    assert dataset.domain_names == ("amazon", "caltech", "dslr", "webcam")
    counts = [np.bincount(dataset.official[dataset.domains == domain]).tolist() for domain in range(4)]
    assert counts == [[240, 0, 60], [130, 0, 30], [75, 0, 18], [109, 0, 30]]
    for path, label, domain in zip(paths_of(dataset), dataset.labels, dataset.domains, strict=True):
        assert path.split("/")[-3:-1] == [dataset.domain_names[domain], OFFICE_CLASSES[label]]


@needs_samples
def test_pets_without_coop_s_split_have_the_official_one(tmp_path):
    coop = load_dataset("oxford_pets", SAMPLES)
    linked("oxford_pets", tmp_path, "split_zhou_OxfordPets.json")
    official = load_dataset("oxford_pets", tmp_path)
    assert official.class_names == coop.class_names  # class ids 1..37 with gaps become 0..19
    assert names_by_file(official) == names_by_file(coop)
    assert names_by_file(official, Part.TEST) == names_by_file(coop, Part.TEST)
    assert Part.VAL not in official.official


@needs_samples
def test_flowers_without_coop_s_split_have_the_official_one(tmp_path):
    coop = load_dataset("oxford_flowers", SAMPLES)
    folder = linked("oxford_flowers", tmp_path, "split_zhou_OxfordFlowers.json", "setid.mat")
    assert "setid.mat: there is no such split file, and no split_zhou_Oxf" in refusal("oxford_flowers", tmp_path)
    (folder / "setid.mat").symlink_to(SAMPLES / "oxford_flowers" / "subset_setid.mat")
    official = load_dataset("oxford_flowers", tmp_path)
    assert np.bincount(official.official).tolist() == [198, 199, 323]
    assert names_by_file(official) == names_by_file(coop)
    os.remove(folder / "setid.mat")
    (folder / "setid.mat").symlink_to(SAMPLES / "oxford_flowers" / "setid.mat")  # of all 8,189 images
    assert "setid.mat lists it (7469 of 8189 listed images are missing)" in refusal("oxford_flowers", tmp_path)


@needs_samples
def test_food_without_coop_s_split_has_the_official_one(tmp_path):
    coop = load_dataset("food101", SAMPLES)
    linked("food101", tmp_path, "split_zhou_Food101.json")
    official = load_dataset("food101", tmp_path)
    assert official.class_names == coop.class_names
    assert np.bincount(official.official).tolist() == [204, 0, 84]
    assert names_by_file(official, Part.TEST) == names_by_file(coop, Part.TEST)


@needs_samples
def test_caltech_without_coop_s_split_has_no_split(tmp_path):
    coop = load_dataset("caltech101", SAMPLES)
    linked("caltech101", tmp_path, "split_zhou_Caltech101.json")
    folders = load_dataset("caltech101", tmp_path)
    assert folders.official is None
    assert folders.class_names == coop.class_names
    assert sorted(paths_of(folders)) == sorted(path.replace(str(SAMPLES), str(tmp_path)) for path in paths_of(coop))
    assert not any("Faces_easy" in path or "BACKGROUND_Google" in path for path in paths_of(folders))


@needs_samples
def test_grey_images_and_a_gif_called_jpg():
    caltech = load_dataset("caltech101", SAMPLES)
    assert {caltech.read_image(row).mode for row in range(0, len(caltech), 4)} == {"L", "RGB"}
    gif = read_image_file([str(SAMPLES / "oxford_pets" / "images" / "Abyssinian_34.jpg")], 0)
    assert gif.mode == "RGB"


@pytest.mark.slow
@needs_samples
def test_a_full_split_over_a_part_of_the_images_says_how_many_are_missing(tmp_path):
    folder = linked("caltech101", tmp_path, "split_zhou_Caltech101.json")
    (folder / "split_zhou_Caltech101.json").symlink_to(SAMPLES / "caltech101/original/split_zhou_Caltech101.json")
    message = refusal("caltech101", tmp_path)
    assert "image_" in message
    assert "there is no such image, but" in message
    assert "of 8242 listed images are missing)" in message  # 4128 + 1649 + 2465


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_every_mode_is_read_as_grey_or_rgb(tmp_path, mode):
    path = tmp_path / "image.tif"
    write_image(path, mode=mode)
    image = read_image_file([str(path)], 0)
    assert (image.mode, image.size) == ("L" if mode == "L" else "RGB", (8, 8))


def test_images_that_cannot_be_read_name_their_file(tmp_path):
    path = tmp_path / "image.png"
    write_image(path, side=64)
    whole = path.read_bytes()
    for content in (b"", b"hello", whole[: len(whole) // 2], whole[:40]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"image\.png: cannot be decoded as an image \("):
            read_image_file([str(path)], 0)
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(path)
    with pytest.raises(DataError, match=r"image\.png: has more than 8 bits per channel"):
        read_image_file([str(path)], 0)


def test_dtd_has_the_official_split_or_coop_s(tmp_path):
    folder = write_dtd(tmp_path)
    official = load_dataset("dtd", tmp_path)
    assert official.class_names == ("banded", "polka-dotted", "veined")
    assert official.labels.tolist() == [0, 0, 1, 1, 2, 2] * 3
    assert official.official.tolist() == [Part.TRAIN] * 6 + [Part.VAL] * 6 + [Part.TEST] * 6
    assert official.templates == ("{} texture.",)
    split = {
        "train": [["veined/veined_0000.jpg", 7, "veined_skin"]],
        "val": [],
        "test": [["banded/banded_0001.jpg", 3, "b"]],
    }
    (folder / "split_zhou_DescribableTextures.json").write_text(json.dumps(split))
    coop = load_dataset("dtd", tmp_path)
    assert coop.class_names == ("b", "veined skin")  # labels 3 and 7 become 0 and 1
    assert coop.labels.tolist() == [1, 0]
    assert coop.official.tolist() == [Part.TRAIN, Part.TEST]


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("{", "malformed JSON"),
        ([], "should be an object with lists under train, val and test"),
        ({"train": [], "test": []}, "should be an object with lists under train, val and test"),
        (
            {"train": [["a.jpg", -1, "a"]], "val": [], "test": []},
            r"train[0] is ['a.jpg', -1, 'a'], should be [image, label",
        ),
        ({"train": [], "val": [["a.jpg", "1", "a"]], "test": []}, "val[0] is ['a.jpg', '1', 'a']"),
        ({"train": [["a.jpg", 0]], "val": [], "test": []}, "train[0] is ['a.jpg', 0]"),
        (
            {"train": [["a.jpg", 0, "a"]], "val": [], "test": [["b.jpg", 0, "b"]]},
            "test[0] calls label 0 'b', before it was 'a'",
        ),
        ({"train": [], "val": [], "test": []}, "the split lists none"),
        ({"train": [["../x.jpg", 0, "a"]], "val": [], "test": []}, "'../x.jpg' is outside the dataset's folder"),
        ({"train": [["a\nb", 0, "a"]], "val": [], "test": []}, "'a\\nb' is no file name"),
        ({"train": [["\ud800", 0, "a"]], "val": [], "test": []}, "there is no such image, but"),
        ("[" * 100_000, "malformed JSON"),
        ({"train": [["a.jpg", 0, "a"]], "val": [], "test": [["a.jpg", 0, "a"]]}, "'a.jpg' is listed twice"),
        (
            {"train": [["banded/banded_0000.jpg", 0, "a"], ["no.jpg", 0, "a"]], "val": [], "test": []},
            "images/no.jpg: there is no such image, but",
        ),
    ],
)
def test_a_split_of_coop_s_that_cannot_be_used(tmp_path, split, message):
    folder = write_dtd(tmp_path, per_part=1)
    text = split if isinstance(split, str) else json.dumps(split)
    (folder / "split_zhou_DescribableTextures.json").write_text(text)
    found = refusal("dtd", tmp_path)
    assert message in found
    assert str(folder) in found


def test_lists_that_cannot_be_used(tmp_path):
    folder = write_dtd(tmp_path, per_part=1)
    (folder / "labels" / "val1.txt").write_text("banded/banded_0000.jpg\nveined\n")
    assert refusal("dtd", tmp_path) == f"{folder}/labels/val1.txt:2: 'veined' should be class/image"
    (folder / "labels" / "val1.txt").write_bytes(b"\xff")
    assert f"{folder}/labels/val1.txt: cannot be read" in refusal("dtd", tmp_path)
    os.remove(folder / "labels" / "val1.txt")
    assert refusal("dtd", tmp_path) == f"{folder}/labels/val1.txt: there is no such split file"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("cat 1 1 1", "trainval.txt:2: 'cat 1 1 1' should be Breed_number, class id >= 1"),
        ("Big_Cat_2 0 1 1", "trainval.txt:2: 'Big_Cat_2 0 1 1' should be"),
        ("Big_Cat_2 1 1", "trainval.txt:2: 'Big_Cat_2 1 1' should be"),
        ("Dog_2 4 1 1", "trainval.txt:2: class id 4 is 'dog', before it was 'big_cat'"),
    ],
)
def test_pets_lists_that_cannot_be_used(tmp_path, line, message):
    folder = tmp_path / "oxford_pets" / "annotations"
    folder.mkdir(parents=True)
    (folder / "trainval.txt").write_text(f"Big_Cat_1 4 1 1\n{line}\n")
    (folder / "test.txt").write_text("")
    assert message in refusal("oxford_pets", tmp_path)


def test_flowers_files_that_cannot_be_used(tmp_path):
    folder = tmp_path / "oxford_flowers"
    write_images(folder, ["jpg/image_00001.jpg"])
    savemat(folder / "imagelabels.mat", {"labels": [[103.0, 5.0]]})
    savemat(folder / "setid.mat", {"trnid": [1], "valid": [], "tstid": [3]})
    assert "imagelabels.mat: image 1 is of class 103, should be 1 to 102" in refusal("oxford_flowers", tmp_path)
    savemat(folder / "imagelabels.mat", {"labels": [[13.0, 5.0]]})
    assert "setid.mat: has image 3, but imagelabels.mat has 2 labels" in refusal("oxford_flowers", tmp_path)
    savemat(folder / "setid.mat", {"trnid": [0.5], "valid": []})
    assert "setid.mat: should be a MATLAB file with trnid, valid, tstid" in refusal("oxford_flowers", tmp_path)
    savemat(folder / "setid.mat", {"trnid": [1], "valid": [], "tstid": []})
    assert load_dataset("oxford_flowers", tmp_path).class_names == ("king protea",)


@pytest.mark.parametrize("prefix", ["domainnet/", "DomainNet/", ""])
@pytest.mark.parametrize("dtype", [np.str_, object])
def test_domainnet_in_fedbn_s_layout(tmp_path, prefix, dtype):
    write_domainnet(tmp_path, prefix=prefix, dtype=dtype, protocol=2 if prefix else 5)
    dataset = load_dataset("domainnet", tmp_path)
    assert dataset.class_names[3] == "ice cream"
    assert len(dataset.class_names) == 10
    assert dataset.domain_names == ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")
    assert dataset.labels.tolist() == [9, 9, 0, 0, 8, 8] * 12  # zebra, bird, wine_glass in the published table
    assert dataset.domains.tolist() == np.repeat(range(6), 12).tolist()
    assert dataset.official.tolist() == ([Part.TRAIN] * 6 + [Part.TEST] * 6) * 6
    for path, label in zip(paths_of(dataset), dataset.labels, strict=True):
        assert Path(path).parent.name == DOMAINNET_CLASSES[label]


def test_domainnet_under_the_name_that_fedbn_gives_it(tmp_path):
    write_domainnet(tmp_path)
    os.rename(tmp_path / "domainnet", tmp_path / "DomainNet")
    assert len(load_dataset("domainnet", tmp_path)) == 72


def cyclic() -> list:
    rows = []
    rows.append(rows)
    return rows


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ((np.array(["domainnet/real/lion/1.jpg"]), np.array(["lion"])), "entry 0 is of class 'lion'; there are: bird"),
        ((np.array(["a.jpg", "b.jpg"]), np.array(["bird"])), "should be a pair of equally long arrays of text"),
        ((np.array([1]), np.array([2])), "should be a pair of equally long arrays of text"),
        ((np.array([["a.jpg"]]), np.array([["bird"]])), "should be a pair of equally long arrays of text"),
        (np.array(["bird"]), "should be a pair of equally long arrays of text"),
        ("bird", "should be a pair of equally long arrays of text"),
        (
            (["a.jpg", ["b.jpg", "c.jpg"]], ["bird", "bird"]),
            "should be a pair of equally long arrays of text",
        ),  # ragged
        ((cyclic(), ["bird"]), "no readable pickle, cut short or damaged (a value that holds itself)"),
        ((["é".encode("latin1")], ["bird"]), "should be a pair of equally long arrays of text"),
        (("a", "b"), "should be a pair of equally long arrays of text"),
        (np.array("bird"), "should be a pair of equally long arrays of text"),
        (
            (["x" * 10**5] + ["y"] * 10**5, ["bird"]),
            "should be a pair of equally long arrays of text",
        ),  # 40 GB as one array
        ((np.array(["domainnet/real/bird/9.jpg"]), np.array(["bird"])), "real/bird/9.jpg: there is no such image"),
        (os.system, "refused, for it names posix.system"),
    ],
)
def test_a_domain_s_pickle_that_cannot_be_used(tmp_path, value, message):
    folder = write_domainnet(tmp_path, per_part=1)
    (folder / "real_train.pkl").write_bytes(pickle.dumps(value))
    found = refusal("domainnet", tmp_path)
    assert f"{folder}/real" in found
    assert message in found


def test_a_domain_s_pickle_that_is_not_there(tmp_path):
    folder = write_domainnet(tmp_path, per_part=1)
    os.remove(folder / "sketch_test.pkl")
    assert refusal("domainnet", tmp_path) == f"{folder}/sketch_test.pkl: there is no such file"


def write_cifar100(root: Path, *, protocol: int = 2, keys: type = str, **changes) -> Path:
    """Four images of two classes; ``changes`` replace entries of ``train``."""
    folder = root / "cifar100" / "cifar-100-python"
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.arange(4 * 3072, dtype=np.int64).astype(np.uint8).reshape(4, 3072)
    train = {"data": pixels[:3], "fine_labels": [0, 1, 1], "coarse_labels": [0, 0, 0], **changes}
    test = {"data": pixels[3:], "fine_labels": [0]}
    for name, content in {"train": train, "test": test, "meta": {"fine_label_names": ["ray", "sea_cow"]}}.items():
        content = {key if keys is str else key.encode(): value for key, value in content.items()}
        (folder / name).write_bytes(pickle.dumps(content, protocol=protocol))
    return folder


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize("keys", [str, bytes])
def test_cifar_that_was_written_again_by_python_3(tmp_path, protocol, keys):
    write_cifar100(tmp_path, protocol=protocol, keys=keys)
    dataset = load_dataset("cifar100", tmp_path)
    assert dataset.class_names == ("ray", "sea cow")
    assert dataset.labels.tolist() == [0, 1, 1, 0]
    assert dataset.official.tolist() == [0, 0, 0, 2]
    # Channel c of pixel (y, x) is byte 1024 c + 32 y + x of the row; row 1 begins at 3072.
    assert np.asarray(dataset.read_image(1))[2, 5].tolist() == [(3072 + 1024 * c + 69) % 256 for c in range(3)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fine_labels": [0, 1, 2]}, "fine_labels[2] is 2, but meta names 2 classes"),
        ({"fine_labels": [0, 1, -1]}, "fine_labels[2] is -1"),
        ({"fine_labels": [0, 1, "1"]}, "fine_labels[2] is '1'"),
        ({"fine_labels": [0, 1, True]}, "fine_labels[2] is True"),
        ({"fine_labels": [0, 1, 0.7]}, "fine_labels[2] is 0.7"),
        ({"fine_labels": [0, 1, [0, 1]]}, "fine_labels[2] is [0, 1]"),
        ({"fine_labels": [0, 1, 10**30]}, "fine_labels[2] is 1000"),
        ({"fine_labels": np.array(3)}, "has no list or array 'fine_labels'"),
        ({"fine_labels": [0, 1]}, "3 images but 2 fine_labels"),
        ({"fine_labels": None}, "has no list or array 'fine_labels'; there are: data, fine_labels"),
        ({"data": [[0, 1], [2]]}, "data is a list, should be an array of uint8 [images, 3072]"),
        ({"data": cyclic()}, "no readable pickle, cut short or damaged (a value that holds itself)"),
        ({"data": np.zeros((3, 3072))}, "data is float64 (3, 3072), should be uint8 [images, 3072]"),
        ({"data": np.zeros((3, 1024), np.uint8)}, "data is uint8 (3, 1024), should be uint8 [images, 3072]"),
    ],
)
def test_cifar_files_that_cannot_be_used(tmp_path, changes, message):
    folder = write_cifar100(tmp_path, **changes)
    assert refusal("cifar100", tmp_path).startswith(f"{folder}/train: {message}")


def test_cifar_files_that_are_cut_short_missing_or_something_else(tmp_path):
    folder = write_cifar100(tmp_path)
    content = (folder / "test").read_bytes()
    (folder / "test").write_bytes(content[: len(content) // 2])
    assert refusal("cifar100", tmp_path).startswith(f"{folder}/test: no readable pickle, cut short or damaged")
    (folder / "test").write_bytes(pickle.dumps([1]))
    assert refusal("cifar100", tmp_path) == f"{folder}/test: a list, should be CIFAR's dict"
    os.remove(folder / "test")
    assert refusal("cifar100", tmp_path) == f"{folder}/test: there is no such file"


def test_an_imagefolder_with_and_without_domains(tmp_path):
    write_images(
        tmp_path / "imagefolder",
        ["train/red_fox/1.png", "train/red_fox/more/2.JPG", "train/ant/1.png", "val/ant/2.png", "test/ant/3.png"],
    )
    (tmp_path / "imagefolder" / "train" / "ant" / "notes.txt").write_text("no image")
    (tmp_path / "imagefolder" / ".cache").mkdir()
    plain = load_dataset("imagefolder", tmp_path)
    assert plain.class_names == ("ant", "red fox")
    assert plain.labels.tolist() == [0, 0, 1, 1, 0]  # by folder: test, train, val
    assert plain.official.tolist() == [Part.TEST, Part.TRAIN, Part.TRAIN, Part.TRAIN, Part.VAL]
    assert plain.domains is None
    write_images(tmp_path / "mine", ["photo/train/cat/1.png", "sketch/test/dog/1.png", "sketch/valid/cat/2.png"])
    domains = load_dataset("imagefolder", tmp_path, "mine")
    assert domains.class_names == ("cat", "dog")
    assert domains.domain_names == ("photo", "sketch")
    assert domains.domains.tolist() == [0, 1, 1]
    assert domains.labels.tolist() == [0, 1, 0]
    assert domains.official.tolist() == [Part.TRAIN, Part.TEST, Part.VAL]


@pytest.mark.parametrize(
    ("paths", "empty", "message"),
    [
        (["train/cat/1.png"], "train/dog", "mine: class 'dog' has no image in any split"),
        (["train/cat/1.png"], "tset", "mine/tset: is no split; imagefolder reads <split>/<class>/*"),
        (["photo/train/cat/1.png"], "sketch", "mine/sketch: has no split; imagefolder reads"),
        (["photo/train/cat/1.png", "photo/extra/cat/1.png"], "photo", "mine/photo/extra: is no split"),
        (["cat/1.png"], "dog", "mine/cat: has no split; imagefolder reads"),
        ([], ".", "mine: has no split; imagefolder reads"),
        ([], "train", "mine: imagefolder has no images"),
    ],
)
def test_an_imagefolder_that_cannot_be_used(tmp_path, paths, empty, message):
    write_images(tmp_path / "mine", paths)
    (tmp_path / "mine" / empty).mkdir(parents=True, exist_ok=True)
    assert f"{tmp_path}/{message}" in refusal("imagefolder", tmp_path, "mine")


def test_classes_without_images_are_told_where_the_list_is_the_format_s(tmp_path, caplog):
    write_domainnet(tmp_path, classes=["zebra"], per_part=1)
    assert len(load_dataset("domainnet", tmp_path).class_names) == 10
    assert caplog.messages == ["domainnet: 9 of its 10 classes have no image (bird, feather, headphones)"]


def test_a_class_of_caltech_without_images(tmp_path):
    write_images(tmp_path / "caltech101" / "101_ObjectCategories", ["cup/image_0001.jpg"])
    (tmp_path / "caltech101" / "101_ObjectCategories" / "yin_yang").mkdir()
    assert refusal("caltech101", tmp_path).endswith("101_ObjectCategories/yin_yang: the class has no image")


def test_digits_styles_draws_each_digit_once_and_shares_out_each_class():
    plain, styled = load_dataset("digits", "."), load_dataset("digits_styles", ".")
    assert styled.labels.tolist() == plain.labels.tolist()
    assert styled.domain_names == ("inverted", "thick", "rotated", "noisy", "blurred")
    table = np.zeros((5, 10), dtype=int)
    np.add.at(table, (styled.domains, styled.labels), 1)
    assert np.ptp(table, axis=0).max() <= 1  # a fifth of each class, to one image
    assert np.ptp(table.sum(axis=1)) <= 1
    again = load_dataset("digits_styles", ".")
    assert again.fingerprint == styled.fingerprint != plain.fingerprint
    ink = [
        np.mean([np.asarray(styled.read_image(row)).mean() for row in np.flatnonzero(styled.domains == domain)])
        for domain in range(5)
    ]
    plain_ink = np.mean([np.asarray(plain.read_image(row)).mean() for row in range(len(plain))])
    assert ink[0] == pytest.approx(255 - plain_ink, abs=6)  # inverted
    assert ink[1] > plain_ink + 20  # thick
    assert ink[4] == pytest.approx(plain_ink, abs=6)  # blurred


@pytest.mark.parametrize("write", [write_dtd, write_domainnet])
def test_a_fingerprint_tells_contents_and_lists_apart_and_not_places(tmp_path, write):
    folder = write(tmp_path / "here", per_part=1)
    name = folder.name
    before = load_dataset(name, tmp_path / "here").fingerprint
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    assert load_dataset(name, tmp_path / "there").fingerprint == before
    image = next((tmp_path / "there").rglob("*.jpg"))
    write_image(image, seed=99)
    replaced = load_dataset(name, tmp_path / "there").fingerprint
    assert replaced != before
    content = bytearray(image.read_bytes())
    content[-3] ^= 1  # of the same size
    image.write_bytes(content)
    assert load_dataset(name, tmp_path / "there").fingerprint not in (before, replaced)


def test_a_fingerprint_depends_on_the_split(tmp_path):
    folder = write_dtd(tmp_path, per_part=1)
    before = load_dataset("dtd", tmp_path).fingerprint
    labels = folder / "labels"
    for old, new in (("val1", "x"), ("test1", "val1"), ("x", "test1")):
        os.rename(labels / f"{old}.txt", labels / f"{new}.txt")
    assert load_dataset("dtd", tmp_path).fingerprint != before


@pytest.mark.parametrize("name", SOURCES)
def test_a_missing_folder_says_what_to_put_where(tmp_path, name):
    message = refusal(name, tmp_path)
    assert message.startswith(f"{tmp_path / SOURCES[name].folders[0]}: there is no such folder; put ")
    assert ("--download" in message) == bool(SOURCES[name].fetcher)
    assert refusal(name, tmp_path / "no").startswith(f"data.root {tmp_path / 'no'}: there is no such folder; put ")
    assert refusal(name, tmp_path, "mine").startswith(f"{tmp_path / 'mine'}: there is no such folder")


def test_every_dataset_of_files_has_a_source():
    assert set(LOADERS) - set(SOURCES) == {"digits", "digits_styles"}
