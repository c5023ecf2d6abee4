"""Checks before round 1, for one federation or for all those of a sweep."""

import pytest

from promptfleet.errors import ConfigError, DataError
from promptfleet.federation import prepare as prepare_module
from promptfleet.federation.prepare import prepare
from tests.samples import write_dtd


@pytest.fixture
def partitioned(monkeypatch):
    """The configurations that partitions were made for."""
    made, make = [], prepare_module.partition_for

    def note(config, *data):
        made.append(config)
        return make(config, *data)

    monkeypatch.setattr(prepare_module, "partition_for", note)
    return made


def test_each_partition_is_made_once(small_config, partitioned):
    first, other_lr = small_config(), small_config(prompt_lr=0.5)
    others = [small_config(clients=4), small_config(seed=1), small_config(partition={"alpha": 5.0})]
    prepare(first, other_lr, *others, *others, first)
    keys = [(config.clients, config.seed, config.partition.alpha) for config in partitioned]
    assert keys == [(3, 0, 0.3), (4, 0, 0.3), (3, 1, 0.3), (3, 0, 5.0)]


def test_every_configuration_is_checked(small_config):
    with pytest.raises(ConfigError, match="prompt_length=99 does not fit"):
        prepare(small_config(), small_config(prompt_length=99))
    with pytest.raises(DataError, match="clients=1000: a client needs"):
        prepare(small_config(), small_config(clients=1000))
    with pytest.raises(ConfigError, match=r"^privacy\.epsilon: the method uploads mask of type torch\.bool, and noise"):
        prepare(small_config(), small_config(method="dispfl", privacy={"epsilon": 8.0}))


WORDS = [[name, name] for name in "zero one two three four five six seven eight".split()]  # noqa: SIM905
LONG = [*WORDS, ["nine", "a b c d"]]  # by glyph-clip: five tokens and the full stop, where others have two


def test_texts_of_new_classes_are_checked_before_round_1(small_config):
    common = {"method": "openprompt", "words": LONG, "partition": {"new_classes": 0.5}}
    message = (
        r"^partition\.new_classes: template='{soft:70} on a {class}\.': has 79 tokens with the longest word, of class "
        r"'nine', and the text tower of glyph-clip has 77 positions; shorten the template or the word$"
    )
    with pytest.raises(ConfigError, match=message):
        prepare(small_config(**common, template="{soft:70} on a {class}.", prompt_length=70))
    prepare(small_config(**common, prompt_length=72, evaluation={"sets": {"new": "never"}}))
    with pytest.raises(
        ConfigError, match=r"^partition\.new_classes: prompt_length=72 .* 'nine', the longest of digits"
    ):
        prepare(small_config(**common, prompt_length=72))


def test_class_names_of_other_datasets_are_checked_before_round_1(small_config, tmp_path):
    write_dtd(tmp_path, classes=("two", "e f g h"), per_part=2)
    common = {"data": {"root": str(tmp_path)}, "evaluation": {"transfer": ["dtd"]}, "prompt_length": 72}
    message = (
        r"^evaluation\.transfer, dataset dtd: prompt_length=72 does not fit: class 'e f g h', the longest of dtd, "
        r"takes 7 of the 77 positions of the text tower of glyph-clip, and leaves room for 70 tokens; lower prompt_l"
    )
    with pytest.raises(ConfigError, match=message):
        prepare(small_config(method="promptfl", **common))
    with pytest.raises(
        ConfigError, match=r"^evaluation\.transfer, dataset dtd: words: there is nothing for class 'e f"
    ):
        prepare(small_config(method="openprompt", words=LONG, **{**common, "prompt_length": 8}))
    prepare(small_config(method="linear_probe", **common), small_config(method="fed_mp", **common))
