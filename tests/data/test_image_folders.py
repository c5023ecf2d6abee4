"""Trees of images: nothing hidden, nothing twice, nothing that is no file, and what is left out is counted."""

import os
import socket
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from promptfleet.data.dataset import Part
from promptfleet.data.datasets import load_dataset
from promptfleet.data.image_folders import SUFFIXES, scan_images
from promptfleet.data.samples import Samples
from promptfleet.errors import DataError
from tests.data.partitions import partition
from tests.samples import paths_of, refusal, write_domainnet, write_dtd, write_image, write_images

PLAIN = ("train/cat/1.png", "train/dog/2.png", "test/cat/3.png", "test/dog/4.png")


@pytest.fixture
def folder(tmp_path):
    """Two classes with an image each in train and test."""
    write_images(tmp_path / "imagefolder", PLAIN)
    return tmp_path / "imagefolder"


def files_of(folder: Path) -> list[str]:
    """Paths of the images of the dataset, from its folder on."""
    return sorted(path.removeprefix(f"{folder}/") for path in paths_of(load_dataset("imagefolder", folder.parent)))


@pytest.mark.parametrize(
    "path",
    [
        "train/cat/.ipynb_checkpoints/1-checkpoint.png",
        "train/cat/deep/.thumbnails/1.png",
        "train/cat/.1.png",
        "train/.trash/9.png",
        ".git/annex/1.png",
        "__MACOSX/train/cat/1.png",
        "train/cat/@eaDir/1.png/thumb.jpg",
    ],
)
def test_nothing_hidden_is_read_at_any_depth(folder, path, caplog):
    write_image(folder / path, 9)
    assert files_of(folder) == sorted(PLAIN)
    hidden = next(Path(*Path(path).parts[: end + 1]) for end, part in enumerate(Path(path).parts) if part[0] in "._@")
    assert caplog.messages == [f"{folder}: left out of the images: 1 hidden (such as {hidden})"]


@pytest.mark.parametrize(
    ("link", "target", "reason"),
    [
        ("train/cat/self", ".", "leading back"),
        ("train/cat/up", "../..", "leading back"),
        ("train/cat/far", "../../../..", "leading back"),
        ("train/cat/more", "../dog", "linking to a folder that is in the tree anyway"),
        ("train/kitty", "cat", "linking to a folder that is in the tree anyway"),
        ("val", "test", "linking to a folder that is in the tree anyway"),
        ("train/cat/5.png", "1.png", "linking to an image that is in the tree anyway"),
        ("train/cat/5.png", "../../test/cat/3.png", "linking to an image that is in the tree anyway"),
        ("test/cat/5.png", "../dog", "linking to a folder that is in the tree anyway"),
        ("test/cat/gone", "nowhere", "leading nowhere"),
        ("test/cat/circle", "circle", "leading nowhere"),
        ("test/cat/null.png", "/dev/null", "that are no files"),
    ],
)
def test_a_link_never_doubles_what_is_there(folder, link, target, reason, caplog):
    (folder / link).symlink_to(target)
    assert files_of(folder) == sorted(PLAIN)
    assert caplog.messages == [f"{folder}: left out of the images: 1 {reason} (such as {link})"]


def test_links_to_what_lies_elsewhere_are_followed_once(folder, tmp_path):
    write_images(tmp_path / "pool", ["fox/5.png", "fox/more/6.png", "7.png", "own/8.png"])
    (folder / "train/fox").symlink_to(tmp_path / "pool/fox")
    (tmp_path / "pool/fox/more/back").symlink_to("..")
    (folder / "train/cat/7.png").symlink_to(tmp_path / "pool/7.png")
    (folder / ".store").symlink_to(tmp_path / "pool/own")  # as git-annex and DVC have it
    (folder / "train/cat/8.png").symlink_to("../../.store/8.png")
    found = ["train/cat/7.png", "train/cat/8.png", "train/fox/5.png", "train/fox/more/6.png"]
    assert files_of(folder) == sorted([*PLAIN, *found])


@pytest.mark.parametrize("places", [("train/cow", "test/cow"), ("train/cow", "train/cat/cow")])
def test_one_folder_in_two_places_is_refused(folder, tmp_path, places):
    write_images(tmp_path / "pool", ["5.png"])
    for place in places:
        (folder / place).symlink_to(tmp_path / "pool")
    first, second = sorted(places)
    assert f"{folder}: {first} and {second} are one and the same folder" in refusal("imagefolder", tmp_path)


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_one_file_in_two_places_is_refused_and_under_two_names_counted_once(folder, tmp_path, link, caplog):
    write_image(tmp_path / "pool.png", 9)
    link(tmp_path / "pool.png", folder / "train/cat/8.png")
    link(tmp_path / "pool.png", folder / "train/cat/9.png")
    assert files_of(folder) == sorted([*PLAIN, "train/cat/8.png"])
    assert caplog.messages == [f"{folder}: left out 1 second names of images (such as train/cat/9.png)"]
    link(tmp_path / "pool.png", folder / "test/cat/9.png")
    message = (
        f"{folder}: test/cat/9.png and train/cat/8.png are one and the same file, in two classes, parts or domains"
    )
    assert message in refusal("imagefolder", tmp_path)


def test_equal_images_are_not_one_image(folder):
    write_image(folder / "train/cat/5.png", 0)  # the same pixels as 1.png
    assert len(files_of(folder)) == 5


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["train/a", "train/b", "test/a", "train/a/.x", "train/a/deep", "train/b/deep/er"]),
            st.sampled_from(["1.png", "2.jpg", "link", "link.png"]),
            st.sampled_from([None, ".", "..", "../..", "../a", "../b", "../../test", "deep", "1.png", "../b/1.png"]),
        ),
        max_size=12,
    )
)
def test_whatever_links_there_are_each_real_image_is_there_once(entries):
    with tempfile.TemporaryDirectory() as root:
        for parent, name, target in entries:
            place = Path(root, parent, name)
            place.parent.mkdir(parents=True, exist_ok=True)
            if target is None and not place.is_symlink():
                place.write_bytes(b"")
            elif not os.path.lexists(place):
                place.symlink_to(target)
        tree = scan_images(Path(root))
        real = [path for path in Path(root).rglob("*.[pj][np]g") if path.is_file() and not path.is_symlink()]
        wanted = {os.path.realpath(path) for path in real if ".x" not in path.parts}
        found = [os.path.realpath(f"{root}/{path}") for path in tree.images]
        there = [path for path in found if os.path.exists(path)]
        assert len(set(there)) == len(there)
        assert wanted <= set(there)
        assert not any("/." in f"/{path}" for path in tree.images)


def test_named_pipes_sockets_and_devices_do_not_hang(folder, tmp_path, caplog, monkeypatch):
    os.mkfifo(folder / "train/cat/pipe.png")
    monkeypatch.chdir(folder / "train/cat")  # a socket's path has to be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
        assert files_of(folder) == sorted(PLAIN)
    assert caplog.messages == [
        f"{folder}: left out of the images: 2 that are no files (such as train/cat/pipe.png)",
    ]


@pytest.mark.parametrize(
    "file", ["images/banded/banded_0000.jpg", "labels/val1.txt", "split_zhou_DescribableTextures.json"]
)
def test_a_named_pipe_among_the_files_of_a_split_is_refused(tmp_path, file):
    path = write_dtd(tmp_path, per_part=1) / file
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    assert refusal("dtd", tmp_path) == f"{path}: is a named pipe, should be a regular file"


def test_a_named_pipe_as_pickle_or_partition_is_refused(tmp_path):
    path = write_domainnet(tmp_path, per_part=1) / "real_test.pkl"
    path.unlink()
    os.mkfifo(path)
    assert refusal("domainnet", tmp_path) == f"{path}: is a named pipe, should be a regular file"


def test_an_image_that_becomes_a_named_pipe_or_is_gone_is_no_hang(folder):
    dataset = load_dataset("imagefolder", folder.parent)
    path = Path(paths_of(dataset)[0])
    path.unlink()
    with pytest.raises(DataError, match=r"3\.png: cannot be decoded as an image \(.* No such file or directory: it\)"):
        dataset.read_image(0)
    os.mkfifo(path)
    with pytest.raises(DataError, match=r"3\.png: is a named pipe, should be a regular file"):
        dataset.read_image(0)


def test_what_pillow_reads_is_read_and_the_rest_is_counted_by_its_ending(folder, caplog):
    registered = Image.registered_extensions()
    assert [suffix for suffix in SUFFIXES if registered.get(suffix) not in Image.OPEN] == []
    for number, suffix in enumerate(SUFFIXES):
        format = registered[suffix] if registered[suffix] in Image.SAVE else "PNG"
        write_image(folder / f"train/cat/{number}{suffix.upper()}", number, format=format)
    for name in ("a.heic", "b.HEIC", "notes.txt", "Makefile"):
        (folder / "train/dog" / name).write_text("")
    dataset = load_dataset("imagefolder", folder.parent)
    assert len(dataset) == len(PLAIN) + len(SUFFIXES)
    assert {dataset.read_image(row).size for row in range(len(dataset))} == {(8, 8)}
    assert caplog.messages == [
        f"{folder}: left out of the images: 2 ending in .heic (such as train/dog/a.heic), "
        f"1 without an ending (such as train/dog/Makefile), 1 ending in .txt (such as train/dog/notes.txt)"
    ]


def test_a_folder_that_cannot_be_read_is_refused(folder, tmp_path, monkeypatch):
    scandir = os.scandir

    def closed(path):
        if str(path).endswith("train/dog"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    assert f"{folder}/train/dog: should be a readable folder of images (Permission denied)" in refusal(
        "imagefolder", tmp_path
    )


def test_an_empty_class_says_what_was_left_out_of_it(folder, tmp_path):
    for name in ("train/fox/1.heic", "test/fox/2.heic", "train/dog/3.heic"):
        write_image(folder / name, format="PNG")
    assert "class 'fox' has no image in any split; left out there: 2 ending in .heic (such as test/fox/2" in refusal(
        "imagefolder", tmp_path
    )


def test_images_outside_class_folders_are_counted(folder, caplog):
    write_images(folder, ["train/5.png", "6.png"])
    assert files_of(folder) == sorted(PLAIN)
    assert caplog.messages == [f"{folder}: 2 images are in no class folder (such as 6.png)"]


def test_a_dataset_without_training_part_says_how_its_samples_are_split(tmp_path):
    write_images(tmp_path / "imagefolder", ["test/cat/1.png", "test/cat/2.png", "val/cat/3.png"])
    samples = Samples.of_dataset(load_dataset("imagefolder", tmp_path))
    with pytest.raises(DataError) as caught:
        partition(samples, 1, kind="iid")
    assert str(caught.value).endswith("part has 0; its published split has 0 in train, 1 in val, 2 in test")


@pytest.mark.parametrize(
    ("second", "listed"),
    [
        ("./banded/banded_0000.jpg", True),
        ("banded//banded_0000.jpg", True),
        ("banded/./banded_0000.jpg", True),
        ("banded/link.jpg", True),
        ("banded/hard.jpg", True),
        ("other/banded_0000.jpg", True),
        ("banded/copy.jpg", False),
    ],
)
def test_the_same_image_under_two_spellings_is_listed_twice(tmp_path, second, listed):
    folder = write_dtd(tmp_path, per_part=1)
    images, labels = folder / "images", folder / "labels"
    image = images / "banded/banded_0000.jpg"
    (images / "banded/link.jpg").symlink_to("banded_0000.jpg")
    (images / "banded/hard.jpg").hardlink_to(image)
    (images / "other").symlink_to("banded")
    (images / "banded/copy.jpg").write_bytes(image.read_bytes())
    (labels / "test1.txt").write_text(f"{second}\n")
    if listed:
        assert refusal("dtd", tmp_path).startswith(f"{labels}/test1.txt: {second!r} is listed twice: it is the same ")
    else:
        assert load_dataset("dtd", tmp_path).official.tolist() == [Part.TRAIN] * 3 + [Part.VAL] * 3 + [Part.TEST]
    (labels / "test1.txt").write_text("./banded/banded_0002.jpg\n")
    assert load_dataset("dtd", tmp_path).class_names == ("banded", "polka-dotted", "veined")


def test_a_pet_under_two_spellings_is_listed_twice(tmp_path):
    folder = tmp_path / "oxford_pets"
    write_images(folder, ["images/Big_Cat_1.jpg"])
    (folder / "annotations").mkdir()
    (folder / "annotations/trainval.txt").write_text("Big_Cat_1 4 1 1\n")
    (folder / "annotations/test.txt").write_text("./Big_Cat_1 4 1 1\n")
    assert "test.txt: './Big_Cat_1.jpg' is listed twice" in refusal("oxford_pets", tmp_path)


@pytest.mark.parametrize("place", ["train/cat/{}.png", "train/{}/1.png", "{}/train/cat/1.png"])
def test_names_that_are_no_utf_8_are_read_and_shown_escaped(tmp_path, place):
    path = tmp_path / "imagefolder" / place.format("plain")
    write_image(path)
    named = Path(str(path).replace("plain", os.fsdecode(b"caf\xe9")))
    os.renames(path, named)
    dataset = load_dataset("imagefolder", tmp_path)
    assert dataset.read_image(0).size == (8, 8)
    for names in (dataset.class_names, dataset.domain_names):
        assert "".join(names).encode().decode() in ("", "cat", r"caf\xe9")
    assert np.unique(dataset.labels).tolist() == [0]
    named.write_bytes(b"")
    with pytest.raises(DataError, match=r"caf\\xe9.*: cannot be decoded as an image"):
        dataset.read_image(0)


def test_names_with_control_characters_are_read(tmp_path):
    write_images(tmp_path / "imagefolder", ["train/\x1b[31mred/1\n2.png", "train/a_b/3.png", "train/a b/4.png"])
    dataset = load_dataset("imagefolder", tmp_path)
    assert dataset.class_names == ("\x1b[31mred", "a b", "a_b")  # two names stay two
    assert dataset.read_image(0).size == (8, 8)
