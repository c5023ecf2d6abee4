"""Class names as prompts: which are the same to CLIP, and which are too long for it."""

import numpy as np
import pytest

from promptfleet.clip.backbone import load_backbone
from promptfleet.clip.tokens import embed_classes
from promptfleet.config import BackboneConfig
from promptfleet.data.dataset import Dataset
from promptfleet.errors import ConfigError, DataError
from promptfleet.features.class_prompts import tokenize_classes, warn_of_equal_prompts
from promptfleet.federation.prepare import prepare
from tests.samples import write_images


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(BackboneConfig())


def dataset_of(*names):
    return Dataset("mine", names, np.zeros(1, np.int64), lambda index: None, ("a photo of a {}.",), "0")


@pytest.fixture
def warn(backbone, caplog):
    """``warn(*names)``: the lines on the log about classes of these names."""

    def of(*names):
        dataset = dataset_of(*names)
        warn_of_equal_prompts(backbone, dataset, embed_classes(backbone.tower, tokenize_classes(backbone, dataset)))
        return [message.removeprefix("mine: ") for message in caplog.messages]

    return of


SAME = "CLIP cannot distinguish classes whose names are the same tokens: "
UNKNOWN = "glyph-clip does not know the words that would distinguish classes: "


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (("a_b", "cat", "a b"), "'a_b' and 'a b'"),
        (("Dog", "cat", "dog", "CAT"), "'Dog' and 'dog'; 'cat' and 'CAT'"),
        (("caf\u00e9", "cafe\u0301"), r"'caf\xe9' and 'cafe\u0301'"),
        (("two  words", "two words", "two\nwords"), r"'two  words' and 'two words' and 'two\nwords'"),
        (("salt &amp; pepper", "salt & pepper"), "'salt &amp; pepper' and 'salt & pepper'"),
    ],
)
def test_classes_with_the_same_tokens_are_named_in_one_line(warn, names, line):
    assert warn(*names)[0] == SAME + line


def test_classes_that_differ_are_not_named(warn):
    assert warn("seven", "eight", "capital a", "7") == []


def test_of_many_groups_and_many_classes_some_are_named(warn):
    names = [
        name for digit in ("zero", "one", "two", "three", "four", "five", "six") for name in (digit, digit.title())
    ]
    (line,) = warn(*names)
    assert line == f"{SAME}{'; '.join(f'{name!r} and {name.title()!r}' for name in names[:10:2])}; 2 more"


def test_words_that_the_backbone_does_not_know_are_named_too(warn):
    assert warn("seven", "cat", "Cat", "dog", "grey seal pup") == [
        f"{SAME}'cat' and 'Cat'",
        f"{UNKNOWN}'cat' and 'dog'",
    ]


def test_a_name_that_does_not_fit_is_named_with_the_room_there_is(backbone):
    name = " ".join("abcdefghij" * 8)  # a token for each letter
    for template, room in (("{}.", 77 - 3), ("a photo of a {}.", 77 - 7)):
        fits = dataset_of("cat", name[: 2 * room - 1])
        assert int((tokenize_classes(backbone, fits, template)[1] > 0).sum()) == 77
        with pytest.raises(DataError) as caught:
            tokenize_classes(backbone, dataset_of("cat", name), template)
        assert str(caught.value) == (
            f"mine: class {name!r} is too long: its name has 80 tokens, and in a text such as {template!r} the text "
            f"tower of glyph-clip has room for {room}; shorten it"
        )


def test_a_federation_warns_once_and_names_the_class_that_leaves_too_little_room(tmp_path, small_config, caplog):
    long = " ".join("abcdefghij" * 6)
    write_images(tmp_path / "mine", [f"train/{name}/{i}.png" for name in ("Dog", "dog", long) for i in range(9)])
    mine = {"dataset": "imagefolder", "data": {"root": str(tmp_path), "folder": "mine"}, "partition": {"kind": "iid"}}
    prepare(small_config(**mine), small_config(**mine, seed=1))
    assert [message for message in caplog.messages if "same tokens" in message] == [
        "imagefolder: CLIP cannot distinguish classes whose names are the same tokens: 'Dog' and 'dog'"
    ]
    message = f"prompt_length=16 does not fit: class '{long}', the longest of imagefolder, .*leaves room for 14 to"
    with pytest.raises(ConfigError, match=message):
        prepare(small_config(**mine, prompt_length=16))
