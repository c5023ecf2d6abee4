"""Checks before round 1, for one federation or for all those of a sweep."""

import pytest

from promptfleet.errors import ConfigError, DataError
from promptfleet.federation import prepare as prepare_module
from promptfleet.federation.prepare import prepare


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
