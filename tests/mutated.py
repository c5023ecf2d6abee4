"""Configurations and search files with something wrong in them: real ones of this repository, mutated at random."""

import copy
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from promptfleet.errors import PromptfleetError
from promptfleet.yaml_files import read_yaml

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
SPACES = sorted((ROOT / "search_spaces").rglob("*.yaml"))

WORDS = st.sampled_from(
    ["auto", "ray", "random", "pfedmoap", "promptfl", "digits", "iid", "float32", "method", "seed", "on", "", "é\n"]
)
NUMBERS = st.one_of(
    st.integers(-3, 20),
    st.sampled_from([2**31, 2**63, 10**30, -(10**18), 10**400, 1000, 0.5, 1e-300, 1e308, float("nan"), float("inf")]),
    st.floats(),
)
SCALARS = st.one_of(NUMBERS, WORDS, st.booleans(), st.none(), st.text(max_size=8))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.one_of(WORDS, SCALARS), inner, max_size=3)),
    max_leaves=6,
)
BOUNDS = st.one_of(st.lists(NUMBERS, max_size=3), st.tuples(st.integers(0, 9), st.integers(9, 40)).map(list))
RANGES = st.one_of(
    st.fixed_dictionaries({"int": BOUNDS}, optional={"step": NUMBERS, "log": VALUES}),
    st.fixed_dictionaries({"float": BOUNDS}, optional={"log": st.booleans()}),
    st.fixed_dictionaries({"choice": st.lists(VALUES, max_size=4)}),
)
# Texts that mean something to YAML, at any place in a file.
RUBBISH = st.one_of(
    st.sampled_from(
        [
            *(
                b"\t",
                b"\n",
                b"\xff\xfe",
                b"\xef\xbb\xbf",
                b"\x00",
                b"{",
                b"]",
                b": ",
                b"- ",
                b"|\n",
                b">-\n",
                b"~",
                b"#",
            ),
            *(b"&a [*a]", b"&a {b: *a}", b"*nowhere", b"<<: {a: 1}\n", b"? [a, b]\n", b"\n---\n", b"%YAML 9\n"),
            *(
                b"!!python/object:os.system x",
                b"!!int x",
                b"!!binary zzz",
                b"!!set {a, b}",
                b"!!timestamp 99",
                b"!!map []",
            ),
            *(b"1e400", b"9" * 5000, b"[" * 2000, b"0x", b"1_000", b".inf", b".nan", b"2026-99-99", b"12:30:99"),
        ]
    ),
    st.binary(max_size=6),
)


@st.composite
def documents(draw: st.DrawFn, bases: list[Path]) -> bytes:
    """A file's content: one of ``bases`` with some values or characters replaced, removed, moved or doubled."""
    values = copy.deepcopy(read_yaml(draw(st.sampled_from(bases))))
    for _ in range(draw(st.integers(1, 3))):
        mutate(draw, values)
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode()
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        at, cut = draw(st.integers(0, len(text))), draw(st.sampled_from([0, 0, 1, 7, 40]))
        again = text[at : at + cut] if draw(st.booleans()) else b""
        text = text[:at] + again + draw(RUBBISH) + text[at + cut :]
    return text


@st.composite
def assignments(draw: st.DrawFn, keys: list[str]) -> list[str]:
    """Arguments of ``--set``."""
    key = st.one_of(
        st.sampled_from(keys),
        st.sampled_from(keys).map(lambda key: key + ".x"),
        st.sampled_from(["", ".", "a..b", "partition", "runtime.", ".clients", "methods.pfedmoap.lambda", "Clients"]),
        st.text(max_size=6),
    )
    value = st.one_of(
        VALUES.map(lambda value: yaml.safe_dump(value, default_flow_style=True).strip().removesuffix("\n...")),
        RUBBISH.map(lambda rubbish: rubbish.decode("latin-1")),
        st.text(max_size=8),
    )
    entry = st.one_of(st.tuples(key, value).map("=".join), st.text(max_size=10))
    return draw(st.one_of(st.just([]), st.just([]), st.lists(entry, max_size=2)))


def refused_in_one_line(error: PromptfleetError) -> None:
    """Assert that the error is a line for the user."""
    message = str(error)
    assert message
    assert message.isprintable()
    assert len(message) < 2100


def mutate(draw: st.DrawFn, values: dict) -> None:
    """Replace, remove, add, move or nest some value."""
    containers = [values, *_containers(values)]
    box = draw(st.sampled_from(containers))
    places = list(box) if isinstance(box, dict) else list(range(len(box)))
    kind = draw(st.sampled_from(["replace", "replace", "remove", "add", "retype", "nest", "copy"]))
    if kind == "add" or not places:
        new = draw(st.one_of(VALUES, RANGES))
        if isinstance(box, dict):
            box[draw(st.one_of(WORDS, st.text(max_size=8), st.integers(-2, 9)))] = new
        else:
            box.append(new)
        return
    place = draw(st.sampled_from(places))
    if kind == "remove":
        del box[place]
    elif kind == "replace":
        box[place] = draw(st.one_of(VALUES, RANGES))
    elif kind == "retype":
        box[place] = draw(st.sampled_from([str, lambda value: [value], lambda value: {"x": value}]))(box[place])
    elif kind == "nest":
        for _ in range(draw(st.sampled_from([1, 3, 60]))):
            box[place] = {"a": box[place]} if draw(st.booleans()) else [box[place]]
    else:
        box[place] = copy.deepcopy(draw(st.sampled_from(containers)))


def _containers(value: Any) -> list[Any]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    found = [one for one in inner if isinstance(one, dict | list)]
    return found + [deeper for one in found for deeper in _containers(one)]
