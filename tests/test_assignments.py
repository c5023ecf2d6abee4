"""``--set`` and dotted keys: text is taken as it is, and both forms of a key mean the same."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptfleet.assignments import parse_assignments, unfold
from promptfleet.config import FederationConfig, flatten, nest, text_keys
from promptfleet.errors import ConfigError

TEXT = text_keys(FederationConfig)


def test_the_keys_that_are_text():
    assert TEXT == {
        "method": False,
        "dataset": False,
        "backbone.name": False,
        "backbone.pretrained": True,
        "backbone.checkpoint": True,
        "partition.file": True,
        "partition.fingerprint": True,
        "partition.held_out_domain": True,
        "data.root": False,
        "data.folder": True,
        "storage.path": False,
    }


@pytest.mark.parametrize(
    "text", ["photos #1", "2024", "true", "@photos", "a: b", "{a", "[1", "'x'", "*a", "&a", "1e3", "~x", " x ", "a=b"]
)
@pytest.mark.parametrize("key", sorted(TEXT))
def test_text_is_taken_as_it_is(key, text):
    assert flatten(parse_assignments([f"{key}={text}"], TEXT)) == {key: text}


@settings(max_examples=100, deadline=None)
@given(st.text(min_size=1).filter(lambda text: text != "null"))
def test_any_text_is_taken_as_it_is(text):
    assert parse_assignments([f"data.folder={text}"], TEXT) == {"data": {"folder": text}}


@pytest.mark.parametrize("text", ["null", ""])
def test_null_where_the_type_allows_it(text):
    assert parse_assignments([f"data.folder={text}"], TEXT) == {"data": {"folder": None}}
    assert parse_assignments([f"data.root={text}"], TEXT) == {"data": {"root": text}}


def test_other_keys_are_yaml():
    values = parse_assignments(["clients=5", "shuffle=false", "partition={kind: iid}", "runtime={a.b: 1}"], TEXT)
    assert values == {"clients": 5, "shuffle": False, "partition": {"kind": "iid"}, "runtime": {"a": {"b": 1}}}


paths = st.lists(st.sampled_from(["a", "b", "c"]), min_size=3, max_size=3).map(".".join)


@settings(max_examples=100, deadline=None)
@given(
    leaves=st.dictionaries(paths, st.integers(), max_size=6), cuts=st.lists(st.integers(1, 3), min_size=6, max_size=6)
)
def test_dotted_keys_mean_what_nested_ones_do(leaves, cuts):
    """Each key is cut into a dotted part and a dotted rest in a section, as someone may write it."""
    values = {}
    for (path, leaf), cut in zip(leaves.items(), cuts, strict=False):
        head, tail = ".".join(path.split(".")[:cut]), ".".join(path.split(".")[cut:])
        values[head] = {**values.get(head, {}), tail: leaf} if tail else leaf
    nested = unfold(values, source="f.yaml")
    assert flatten(nested) == leaves
    assert unfold(nested, source="f.yaml") == nested
    assert not any("." in key for key in nested)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"runtime": {"backend": "ray"}, "runtime.backend": "local"},
            "f.yaml: runtime.backend is there twice, once as a dotted key; keep one",
        ),
        (
            {"runtime.backend": "local", "runtime": 3},
            "f.yaml: runtime is there with a value, and with keys; keep one",
        ),
        (
            {"resources": {"client.gpu": 0, "client": {"gpu": 1}}},
            "f.yaml: resources.client.gpu is there twice, once as a dotted key; keep one",
        ),
        ({"resources": {1: 2}}, "f.yaml: resources.1: a key must be a word"),
    ],
)
def test_conflicts_are_named(values, message):
    with pytest.raises(ConfigError) as caught:
        unfold(values, source="f.yaml")
    assert str(caught.value) == message


def test_closed_sections_and_names_of_modules_keep_their_keys():
    values = {"space": {"partition.alpha": 1}, "space.data.x": 2, "methods": {"my.mod:Class": {"a.b": 3}}, "a..b": 4}
    assert unfold(values, source="x", closed=("space",)) == {
        "space": {"partition.alpha": 1, "data.x": 2},
        "methods": {"my.mod:Class": nest("a.b", 3)},
        "a..b": 4,
    }
