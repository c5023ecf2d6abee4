"""Files with texts of each class, and configurations that are bound to their content."""

import pytest

from promptfleet.class_texts import read_class_texts, texts_of
from promptfleet.errors import ConfigError
from promptfleet.federation.settings import federation_config

LISTED = [["zero", "zero", "0"], ["one", "one"]]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "words.yaml"
    path.write_text("# words\nzero: [zero, 0]\none: one\n")
    return path


def openprompt(**values):
    return federation_config({"method": "openprompt", **values})


def test_a_file_has_a_text_or_a_list_per_class_and_numbers_are_text(file):
    assert read_class_texts(file) == LISTED


def test_what_yaml_would_make_other_values_of_is_text_as_written(file):
    file.write_text("zero: [no, true, 1.50, 2026-01-01, '~', \"null\"]\none: 010\n")
    assert read_class_texts(file) == [["zero", "no", "true", "1.50", "2026-01-01", "~", "null"], ["one", "010"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("zero: [a]\none: [b]\nzero: [c]", r"words.yaml:3: malformed YAML: key 'zero' is a duplicate"),
        ("zero:\n- a\n- b\n- a", r"words.yaml:4: class 'zero': 'a' is a duplicate"),
        ("zero: []", r"words.yaml:1: class 'zero': should have a text or a list of texts"),
        ("zero: a\none:", r"words.yaml:2: class 'one': should have a text or a list of texts"),
        ("zero: a\none: [b, ~]", r"words.yaml:2: class 'one': ~ is YAML for nothing; put it in quotes if it is a text"),
        ("zero: null", r"words.yaml:1: class 'zero': null is YAML for nothing; put it in quotes if it is a text"),
        ("zero: [a, ]\n1: b", r"words.yaml:2: malformed YAML: a key must be a word; put it in quotes"),
        ("zero: [a, [b]]", r"words.yaml:1: class 'zero': should have a text or a list of texts"),
        ("[zero, one]", r"words.yaml: must hold 'class: \[text, text\]' lines"),
        ("zero: [a", r"words.yaml:1: malformed YAML"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_with_its_line(file, text, message):
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        openprompt(words_file=str(file))


def test_a_configuration_needs_the_file_once_and_its_result_is_bound_to_the_content(file, tmp_path):
    config = openprompt(words_file=str(file))
    assert config.words == LISTED
    other = tmp_path / "other.yaml"
    other.write_text(file.read_text())
    assert openprompt(words_file=str(other)).fingerprint() == config.fingerprint() != openprompt().fingerprint()
    values = config.to_dict()
    file.write_text("zero: zero\none: one\n")
    with pytest.raises(ConfigError, match=r"words_file=.*has other texts than words; leave words out to take the file"):
        federation_config(values)
    file.unlink()
    assert federation_config(values) == config


def test_each_class_of_the_dataset_has_texts_in_its_order():
    assert texts_of(LISTED, ["one", "zero"], key="words", path=None) == [["one"], ["zero", "0"]]
    with pytest.raises(ConfigError, match=r"^words_file=w.yaml: there is nothing for class 'zeros'; did you mean"):
        texts_of(LISTED, ["one", "zeros"], key="words", path="w.yaml")
    with pytest.raises(ConfigError, match=r"^words: there is nothing for class 'cat'; the dataset has cat, dog"):
        texts_of(LISTED, ["cat", "dog"], key="words", path=None)
    with pytest.raises(ConfigError, match=r"^words: class 'one' is a duplicate"):
        texts_of([*LISTED, ["one", "1"]], ["one"], key="words", path=None)
