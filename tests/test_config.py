import json
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator, Field, ValidationError

from promptfleet.assignments import parse_assignments
from promptfleet.config import (
    FederationConfig,
    RuntimeConfig,
    Section,
    StorageConfig,
    build,
    dotted_fields,
    dotted_keys,
    fingerprint_of,
    flatten,
    merge,
    nest,
    unknown_name,
)
from promptfleet.config_types import Name, expand_home, is_text
from promptfleet.errors import ConfigError
from promptfleet.methods import METHODS, config_class
from promptfleet.methods.pfedmoap import PFedMoAPConfig
from promptfleet.yaml_files import parse_yaml


def make(**values) -> PFedMoAPConfig:
    return build(PFedMoAPConfig, values, source="f.yaml")


def message(values, model=PFedMoAPConfig) -> str:
    with pytest.raises(ConfigError) as caught:
        build(model, values, source="f.yaml")
    return str(caught.value)


# Messages


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("client", "did you mean 'clients'?"),
        ("promt_lr", "did you mean 'prompt_lr'?"),
        ("lambda_", "did you mean 'lambda'?"),
        ("partition.alph", "did you mean 'partition.alpha'?"),
        ("alpha", "did you mean 'partition.alpha'?"),
        ("gpu", "did you mean 'resources.client.gpu'?"),
        ("resources.client.gpus", "did you mean 'resources.client.gpu'?"),
        ("partition.rounds", "did you mean 'partition.kind'?"),
    ],
)
def test_an_unknown_key_gets_the_nearest(key, hint):
    assert message(nest(key, 1)) == f"f.yaml: unknown key {key!r}; {hint}"


def test_a_key_like_no_other_gets_the_list_if_it_is_short():
    assert message({"zzzzzz": 1}) == "f.yaml: unknown key 'zzzzzz'; docs/configuration.md has all keys"
    with pytest.raises(ConfigError, match=r"^here: unknown key 'zzzzzz'; known keys: path$"):
        build(StorageConfig, {"zzzzzz": 1}, source="here")


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("clients", "10", "got '10', should be a valid integer"),
        ("clients", True, "got True, should be a valid integer"),
        ("clients", 5.0, "got 5.0, should be a valid integer"),
        ("clients", None, "has no value, should be a valid integer"),
        ("clients", {"a": 1}, "got {'a': 1}, should be a valid integer"),
        ("clients", 0, "got 0, should be greater than or equal to 1"),
        ("seed", -1, "got -1, should be greater than or equal to 0"),
        ("participation", 0.0, "got 0.0, should be greater than 0"),
        ("participation", 1.01, "got 1.01, should be less than or equal to 1"),
        ("momentum", 1.0, "got 1.0, should be less than 1"),
        ("prompt_lr", float("nan"), "got nan, should be a finite number"),
        ("weight_decay", float("inf"), "got inf, should be a finite number"),
        ("shuffle", "on", "got 'on', should be true or false"),
        ("shuffle", 1, "got 1, should be true or false"),
        ("dataset", 3, "got 3, should be text, which a file has in quotes"),
        ("lambda", -0.5, "got -0.5, should be greater than or equal to 0"),
        ("partition", 3, "got 3, should be a section of keys"),
        ("partition", None, "has no value, should be a section of keys"),
        ("resources.client", 1, "got 1, should be a section of keys"),
        (
            "partition.kind",
            "dirichlt",
            "got 'dirichlt', should be 'dirichlet', 'pathological', 'disjoint', "
            "'iid', 'quantity', 'domain' or 'domain_dirichlet'",
        ),
        ("runtime.backend", "gpu", "got 'gpu', should be 'ray' or 'local'"),
        ("resources.client.gpu", "half", "got 'half', should be 'auto' or a valid number"),
        ("resources.client.gpu", -1, "got -1, should be 'auto' or greater than or equal to 0"),
        ("resources.server.cpu", float("inf"), "got inf, should be 'auto' or a finite number"),
        (
            "storage.path",
            "s3://me:secret@bucket/results",
            "got credentials in an address, should be without, since the environment has them",
        ),
    ],
)
def test_a_wrong_value_is_named_with_what_would_be_right(key, value, complaint):
    assert message(nest(key, value)) == f"f.yaml: {key}: {complaint}"


@pytest.mark.parametrize(
    ("old", "options", "section"),
    [
        (
            "ViT-B-16/openai",
            "--set backbone.name=ViT-B-16 --set backbone.pretrained=openai",
            "name: ViT-B-16, pretrained: openai",
        ),
        ("glyph-clip", "--set backbone.name=glyph-clip", "name: glyph-clip"),
    ],
)
def test_a_backbone_in_one_string_gets_the_section_to_write(old, options, section):
    wanted = f"got {old!r}, should be a section of keys: {options}, in a file backbone: {{{section}}}"
    assert message({"backbone": old}) == f"f.yaml: backbone: {wanted}"


@pytest.mark.parametrize(
    ("keys", "label"),
    [
        ({}, "glyph-clip"),
        ({"name": "ViT-B-16", "pretrained": "openai"}, "ViT-B-16/openai"),
        ({"name": "RN50", "checkpoint": "some/where/weights.pt"}, "RN50/weights.pt"),
    ],
)
def test_a_backbone_has_a_short_name(keys, label):
    assert make(backbone=keys).backbone.label == label


def test_the_first_of_several_mistakes_is_named():
    assert message({"rounds": 0, "clients": 0}) == "f.yaml: clients: got 0, should be greater than or equal to 1"


def test_experts_must_be_fewer_than_clients():
    wanted = "f.yaml: experts=5 must be smaller than clients=5: a client has 4 others to choose from"
    assert message({"clients": 5, "experts": 5}) == wanted
    assert make(clients=5, experts=4).experts == 4


def test_heads_must_divide_the_gates_width():
    assert message({"gate_width": 20}) == "f.yaml: gate_heads=8 must divide gate_width=20"


@pytest.mark.parametrize(("clients", "experts"), [(1, 0), (2, 1), (3, 2), (4, 3), (100, 3)])
def test_default_of_experts_follows_clients(clients, experts):
    assert make(clients=clients).experts == experts


def test_unknown_name():
    known = ["digits", "cifar10"]
    assert str(unknown_name("dataset", "digit", known)) == "unknown dataset 'digit'; did you mean 'digits'?"
    assert str(unknown_name("dataset", "xyz", known)) == "unknown dataset 'xyz'; there are: digits, cifar10"


def test_a_config_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        make().clients = 3


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: FederationConfig(clients=0), "FederationConfig: clients: got 0, should be greater than or equal to 1"),
        (lambda: FederationConfig(clients="5"), "FederationConfig: clients: got '5', should be a valid integer"),
        (lambda: FederationConfig(client=5), "FederationConfig: unknown key 'client'; did you mean 'clients'?"),
        (
            lambda: PFedMoAPConfig(pool_dtype="float16"),
            "PFedMoAPConfig: unknown key 'pool_dtype'; it is now 'pool.dtype'",
        ),
        (
            lambda: FederationConfig(experts=3),
            "FederationConfig: unknown key 'experts', it has what all methods share; a method's own keys go to "
            "run_federation, in a mapping with these",
        ),
        (
            lambda: FederationConfig(**{"runtime.backend": "local"}),
            "FederationConfig: 'runtime.backend' is no key here; write a section of keys in place of a dot",
        ),
        (
            lambda: FederationConfig({"clients": 5}),
            "FederationConfig: takes keys, such as FederationConfig(**values); run_federation takes a mapping as it is",
        ),
        (
            lambda: FederationConfig(runtime=RuntimeConfig(retries=-1)),
            "RuntimeConfig: retries: got -1, should be greater than or equal to 0",
        ),
        (lambda: RuntimeConfig(device=""), "RuntimeConfig: device: got '', should be 'auto', 'cpu' or 'cuda'"),
        (lambda: FederationConfig(method=""), "FederationConfig: method: got '', should be text that is not empty"),
        (
            lambda: config_class("pfedmoap")(clients=3, experts=5),
            "PFedMoAPConfig: experts=5 must be smaller than clients=3: a client has 2 others to choose from",
        ),
    ],
)
def test_a_wrong_call_is_refused_in_one_line(call, text):
    with pytest.raises(ConfigError) as caught:
        call()
    assert str(caught.value) == text


def test_pydantics_own_way_keeps_its_error():
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        FederationConfig.model_validate({"clients": 0})


def test_an_integer_is_good_enough_for_a_float():
    assert make(prompt_lr=1).fingerprint() == make(prompt_lr=1.0).fingerprint()


def test_keys_with_an_alias_are_named_by_it():
    class Inner(Section):
        from_: int = Field(1, alias="from")

    class Outer(Section):
        kind: Literal["a"] = "a"
        inner: Inner = Inner()

    assert list(dotted_keys(Outer)) == ["kind", "inner.from"]
    assert build(Outer, {"inner": {"from": 3}}, source="x").inner.from_ == 3
    assert message({"inner": {"from": "a"}}, Outer) == "f.yaml: inner.from: got 'a', should be a valid integer"


# Types


def text_types():
    for method in METHODS:
        for key, field in dotted_fields(config_class(method)):
            if is_text(field.annotation):
                yield f"{method}: {key}", field


def test_every_text_is_declared_as_a_path_or_as_a_name():
    """A key that is a path is then expanded, and no new one is forgotten."""
    paths, names = AfterValidator(expand_home), get_args(Name)[1].metadata[0]
    for key, field in text_types():
        marks = [*field.metadata, *(mark for branch in get_args(field.annotation) for mark in get_args(branch)[1:])]
        marks = [inner for mark in marks for inner in (getattr(mark, "metadata", None) or [mark])]
        assert (paths in marks) != (names in marks), f"{key}: should be FilePath or Name"


@pytest.mark.parametrize("key", ["backbone.checkpoint", "data.root", "data.folder", "storage.path"])
def test_a_path_starts_at_home(key, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    written = {"~": "/home/me", "~/runs": "/home/me/runs", "a/~": "a/~", "./~": "./~", "~unknown": "~unknown"}
    for text, path in written.items():
        assert flatten(make(**nest(key, text)).to_dict())[key] == path
    assert flatten(make(**nest(key, Path("~/runs"))).to_dict())[key] == "/home/me/runs"
    assert message(nest(key, "")) == f"f.yaml: {key}: got '', should be a path"
    assert message(nest(key, "a\0b")).endswith("should be a path")
    assert "there is no such home folder; write ./~unknown/runs" in message(nest(key, "~unknown/runs"))


@pytest.mark.parametrize("number", [np.int64(3), np.uint8(3), np.array(3), torch.tensor(3)])
def test_numbers_of_numpy_and_torch_are_numbers(number):
    assert FederationConfig(clients=number) == FederationConfig(clients=3)
    assert make(prompt_lr=np.float32(0.5), shuffle=np.bool_(False)) == make(prompt_lr=0.5, shuffle=False)
    assert message({"clients": np.float64(3.5)}) == "f.yaml: clients: got 3.5, should be a valid integer"


@pytest.mark.parametrize(
    "key", ["prompt_lr", "weight_decay", "gate_lr", "lambda", "adversary.scale", "privacy.clip_norm"]
)
def test_a_number_that_float32_cannot_hold_is_refused(key):
    assert message(nest(key, 1e300)).startswith(f"f.yaml: {key}: got 1e+300, should be at most 3.4e+38")


@pytest.mark.parametrize("key", ["batch_size", "local_epochs", "runtime.retries", "checkpoints.keep", "seed"])
def test_a_number_of_more_than_64_bits_is_refused(key):
    assert f"f.yaml: {key}: got a number of 68 bits" in message(nest(key, 2**64))


# Assignments


def test_assignments_are_read_as_yaml_and_merged():
    values = parse_assignments(
        ["clients=5", "partition.alpha=1e-3", "partition={kind: iid}", "shuffle=false", "a= x "], {}
    )
    assert values == {"clients": 5, "partition": {"alpha": 0.001, "kind": "iid"}, "shuffle": False, "a": "x"}


def test_the_last_assignment_wins_and_values_may_hold_equals_signs():
    assert parse_assignments(["a=1", "a=2", "b=x=y"], {}) == {"a": 2, "b": "x=y"}


@pytest.mark.parametrize("text", ["clients", "=5", " =5", ""])
def test_an_assignment_without_key_or_value_gets_the_form(text):
    quotes = "a value with spaces needs quotes: --set 'key=two words'"
    with pytest.raises(ConfigError) as caught:
        parse_assignments([text], {})
    assert str(caught.value) == f"--set {text}: write key=value, for example --set clients=5; {quotes}"


def test_malformed_values_are_named_by_their_key():
    with pytest.raises(ConfigError, match=r"^--set partition\.alpha:1: malformed YAML: "):
        parse_assignments(["partition.alpha=[1"], {})


nested = st.recursive(
    st.integers(), lambda values: st.dictionaries(st.sampled_from("abc"), values, max_size=3), max_leaves=6
).filter(lambda value: isinstance(value, dict))


def leaves(values, prefix=()):
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*prefix, key))
        else:
            yield (*prefix, key), value


@settings(max_examples=100, deadline=None)
@given(base=nested, over=nested)
def test_merge_keeps_all_of_over_and_changes_neither(base, over):
    before = json.dumps([base, over])
    merged = merge(base, over)
    assert json.dumps([base, over]) == before
    for path, wanted in leaves(over):
        found = merged
        for key in path:
            found = found[key]
        assert found == wanted or wanted == {}
    assert set(merged) == set(base) | set(over)
    assert merge(merged, over) == merged
    assert merge(base, {}) == base
    assert merge({}, over) == over


@settings(max_examples=60, deadline=None)
@given(parts=st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=4), value=st.integers())
def test_nest_is_one_path(parts, value):
    key = ".".join(parts)
    assert list(leaves(nest(key, value))) == [(tuple(parts), value)]
    assert flatten(nest(key, value)) == {key: value}


def test_flatten_goes_through_all_sections():
    assert flatten({"a": 1, "b": {"c": [2], "d": {"e": None}}, "f": {}}) == {"a": 1, "b.c": [2], "b.d.e": None}


# Round trip and fingerprint

OTHER = {
    "seed": 1,
    "method": "other",
    "dataset": "other",
    "backbone.name": "other",
    "backbone.pretrained": "openai",
    "backbone.checkpoint": "weights.pt",
    "clients": 11,
    "rounds": 11,
    "participation": 0.5,
    "local_epochs": 4,
    "batch_size": 16,
    "shuffle": False,
    "prompt_length": 4,
    "class_token_position": "front",
    "class_specific_context": True,
    "precision": "bfloat16",
    "prompt_lr": 0.01,
    "momentum": 0.5,
    "weight_decay": 0.0,
    "max_upload_norm": 10.0,
    "aggregation": "median",
    "trim_fraction": 0.1,
    "faults.drop_rate": 0.1,
    "faults.crash_rate": 0.1,
    "faults.straggle": 0.5,
    "faults.deadline": 2.0,
    "faults.over_selection": 0.5,
    "adversary.fraction": 0.2,
    "adversary.kind": "noise",
    "adversary.scale": 2.0,
    "privacy.epsilon": 25.0,
    "privacy.delta": 0.05,
    "privacy.clip_norm": 1.0,
    "partition.kind": "iid",
    "partition.alpha": 0.5,
    "partition.classes_per_client": 3,
    "partition.val_fraction": 0.2,
    "partition.test_fraction": 0.2,
    "partition.min_samples": 20,
    "partition.shots": 4,
    "partition.new_classes": 0.5,
    "partition.public_fraction": 0.1,
    "evaluation.sets.unseen_domain": "never",
    "partition.held_out_domain": "sketch",
    "partition.held_out_clients": 0.2,
    "evaluation.transfer": ["dtd", "food101"],
    "evaluation.sets.transfer": "never",
    "evaluation.sets.unseen_clients": "never",
    "partition.file": "partition.json",
    "partition.fingerprint": "5eed",
    "data.root": "elsewhere",
    "features.dtype": "float16",
    "features.patches_dtype": "float32",
    "features.views": 4,
    "features.pixels_cache_bytes": 0,
    "data.folder": "mine",
    "runtime.backend": "local",
    "runtime.device": "cpu",
    "runtime.clients_per_actor": 5,
    "runtime.batch_steps": False,
    "runtime.fork_server": "on",
    "runtime.threads_per_client": 2,
    "runtime.start_timeout_s": 10.0,
    "runtime.client_timeout_s": 10.0,
    "runtime.server_timeout_s": 5.0,
    "runtime.on_client_failure": "drop",
    "runtime.retries": 0,
    "runtime.min_clients": 2,
    "resources.client.cpu": 0.5,
    "resources.client.gpu": 0.25,
    "resources.server.cpu": 0.5,
    "resources.server.gpu": 0.25,
    "storage.path": "elsewhere",
    "checkpoints.keep": 5,
    "evaluation.every": 2,
    "evaluation.clients": 3,
    "evaluation.calibration": "never",
    "evaluation.sets.global": "never",
    "evaluation.sets.others": "never",
    "evaluation.sets.server": "never",
    "evaluation.sets.base": "never",
    "evaluation.sets.new": "never",
    "experts": 2,
    "selection": "random",
    "pool.search": "projected",
    "pool.dtype": "float16",
    "pool.storage": "disk",
    "pool.outlier_tolerance": 3.0,
    "gate": "linear",
    "gate_sharing": "averaged",
    "gating_temperature": 1.0,
    "gate_width": 32,
    "gate_heads": 4,
    "gate_lr": 0.01,
    "lambda": 1.0,
}


def changed_by(key) -> PFedMoAPConfig:
    needs = nest("partition.file", "partition.json") if key == "partition.fingerprint" else {}
    return make(**merge(needs, nest(key, OTHER[key])))


def test_every_key_is_in_the_table_above():
    assert set(dotted_keys(PFedMoAPConfig)) == set(OTHER)


@pytest.mark.parametrize("key", OTHER)
def test_fingerprint_ignores_where_and_how_and_nothing_else(key):
    changed = changed_by(key)
    assert changed.to_dict() != make().to_dict()
    place = key.split(".")[0] in ("data", "runtime", "resources", "storage", "checkpoints") and key != "data.folder"
    ignored = place or key == "partition.file"
    assert (changed.fingerprint() == make().fingerprint()) is ignored


@pytest.mark.parametrize("key", OTHER)
def test_what_is_written_is_read_back(key):
    config = changed_by(key)
    values = config.to_dict()
    assert make(**values) == config
    assert make(**json.loads(json.dumps(values))) == config
    again = make(**parse_yaml(yaml.safe_dump(values), source="x"))
    assert again == config
    assert again.fingerprint() == config.fingerprint()
    assert fingerprint_of(json.loads(json.dumps(values))) == config.fingerprint()


def test_a_default_written_out_changes_nothing():
    assert make(experts=3, clients=10).fingerprint() == make().fingerprint()


def test_an_address_is_worked_for_in_a_folder_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    local, one = StorageConfig(), StorageConfig(path="s3://bucket/one/?region=eu-central-1")
    assert (local.address, local.folder, local.option) == (None, Path("results"), "")
    assert one.address == "s3://bucket/one/?region=eu-central-1"
    assert one.folder.parent == tmp_path / "promptfleet"
    assert one.folder.name.startswith("s3-bucket-one-region-eu-central-1-")
    assert one.option == " --set 'storage.path=s3://bucket/one/?region=eu-central-1'"
    assert StorageConfig(path="s3://bucket/two/") == StorageConfig(path="s3://bucket/two")
    assert len({StorageConfig(path=f"s3://bucket/{name}").folder for name in ("a/b", "a-b", "a")}) == 3


def test_a_folder_is_named_for_whoever_works_elsewhere(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    local, there = StorageConfig(), StorageConfig(path="s3://bucket/one?region=eu-central-1")
    assert there.name_of(there.folder / "sweeps/a") == "sweeps/a"
    assert there.shown(there.folder / "sweeps/a") == "s3://bucket/one/sweeps/a"
    assert local.name_of(Path("results/a")) == str(Path("results/a").absolute())
    assert local.shown(Path("results/a")) == "results/a"
