"""Configurations as Python code gives them, and keys of other methods."""

from pathlib import Path

import numpy as np
import pytest

from promptfleet.config import FederationConfig
from promptfleet.errors import ConfigError
from promptfleet.federation.run import run_federation
from promptfleet.federation.settings import configuration_of, federation_config, read_federation_config
from promptfleet.methods import config_class


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("clients: 3\nruntime.backend: local\npartition: {alpha: 1}\n")
    return path


def test_all_that_python_code_may_give_means_the_same(file):
    wanted = federation_config({"clients": 3, "runtime": {"backend": "local"}, "partition": {"alpha": 1.0}})
    for given in (
        wanted,
        FederationConfig(clients=3, runtime={"backend": "local"}, partition={"alpha": 1}),
        {"clients": np.int64(3), "runtime.backend": "local", "partition.alpha": np.float32(1)},
        {"clients": 3, "runtime": {"backend": "local"}, "partition": {"alpha": 1}},
        str(file),
        file,
    ):
        assert configuration_of(given) == wanted


def test_a_file_starts_at_home(file, monkeypatch):
    monkeypatch.setenv("HOME", str(file.parent))
    assert configuration_of("~/mine.yaml").clients == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"folder": 3}, "folder: got 3, should be a path"),
        ({"folder": b"x"}, "folder: got b'x', should be a path"),
        ({"folder": ""}, "folder: got '', should be a path"),
        ({"folder": "s3://bucket/x"}, "folder: got 's3://bucket/x', should be a path on this machine"),
        ({"on_round": 3}, "on_round: got 3, should be a function"),
        ({"listeners": [print]}, "listeners: got <built-in function print>, should be a list of objects with after_r"),
        ({"listeners": 3}, "listeners: got 3, should be a list of objects with after_round(report)"),
        ({"overwrite": "no"}, "overwrite: got 'no', should be True or False"),
        ({"trust_code": 1}, "trust_code: got 1, should be True or False"),
        ({"address": 3}, "address: got 3, should be HOST:PORT"),
        ({"address": ""}, "address: got '', should be HOST:PORT"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused_before_anything_is_done(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        run_federation({"clients": 3, "runtime.backend": "local"}, **arguments)
    assert str(caught.value).startswith(message)
    assert list(tmp_path.iterdir()) == []


def test_a_configuration_object_gets_the_keys_of_its_method():
    config = configuration_of(FederationConfig(method="fedprox", clients=4))
    assert type(config) is config_class("fedprox")
    assert config.clients == 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "configuration: got 3, should be a mapping of keys, a FederationConfig or a path"),
        (Path("nowhere.yaml"), "nowhere.yaml: there is no such file"),
        ({"clients": 0}, "configuration: clients: got 0, should be greater than or equal to 1"),
        ({1: 2}, "configuration: 1: a key must be a word"),
        (
            {"data": {"root": Path("~nobody-here/x")}},
            "data.root: got '~nobody-here/x', but there is no such home folder",
        ),
        ("", "configuration: got '', should be a path"),
        ("a\0b", "configuration: got 'a\\x00b', should be a path"),
        (Path("\udcff.yaml"), r"\xff.yaml: there is no such file"),
        ("s3://bucket/x.yaml", "configuration: got 's3://bucket/x.yaml', should be a path on this machine"),
        (b"x.yaml", "configuration: got b'x.yaml', should be a mapping of keys"),
        (config_class("pfedmoap")().model_copy(update={"clients": 0}), "clients: got 0, should be greater than"),
        (FederationConfig.model_construct(clients="3"), "clients: got '3', should be a valid integer"),
        (config_class("pfedmoap")(method="promptfl", experts=2), "unknown key 'experts' with method promptfl"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_words(given, message):
    with pytest.raises(ConfigError) as caught:
        configuration_of(given)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (
            ["method=promptfl", "experts=2"],
            "--set: unknown key 'experts' with method promptfl: it is a key of fedjets, pfedmoap; leave it out, or set "
            "method to one of them",
        ),
        (
            ["method=promptfl", "gate_width=8"],
            "--set: unknown key 'gate_width' with method promptfl: it is a key of pfedmoap; leave it out, or set "
            "method=pfedmoap",
        ),
        (
            ["method=promptfl", "expert=2"],
            "--set: unknown key 'expert'; did you mean 'experts'? (a key that promptfl does not have)",
        ),
        (["expert=2"], "--set: unknown key 'expert'; did you mean 'experts'?"),
        (["pool_dtype=float16"], "--set: unknown key 'pool_dtype'; it is now 'pool.dtype'"),
    ],
)
def test_a_key_of_another_method_is_answered_with_whose_it_is(assignments, message):
    with pytest.raises(ConfigError) as caught:
        read_federation_config(None, assignments)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("space: {prompt_lr: {float: [0.01, 0.1]}}", r"is a search file \('space'\): give it to tune\.py by --search$"),
        ("methods: {coop: {}}", r"is a file of a comparison \('methods'\): give it to compare\.py by --config$"),
    ],
)
def test_a_file_of_another_job_is_sent_to_it(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"mine\.yaml: {message}"):
        read_federation_config(path)
