from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from promptfleet.strict_json import Counts, parse_json


@dataclass(frozen=True)
class Pet:
    name: str
    toys: Counts
    why: Mapping[int, str]


def test_what_fits_is_parsed_and_other_keys_are_ignored():
    assert parse_json(Pet, '{"name": "é", "toys": [0, 9223372036854775807], "why": {"3": "x"}, "age": 1}') == Pet(
        "é", [0, 2**63 - 1], {3: "x"}
    )


@pytest.mark.parametrize("value", ["0.7", "1.0", '"0"', "true", "null", "-1", "1e30", "1" + 30 * "0", "NaN", "[0]"])
def test_only_an_integer_from_0_on_is_an_index(value):
    with pytest.raises(ValueError, match=r"^toys\.1: Input should be [^\n]*$"):
        parse_json(Pet, f'{{"name": "a", "why": {{}}, "toys": [1, {value}, {value}]}}')


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 200_000, "[" * 200_000 + "]" * 200_000, "9" * 5000, '"\\ud800"', b"\xff"]
)
def test_malformed_and_deep_json_is_one_line(text):
    with pytest.raises(ValueError, match=r"^Invalid JSON: [^\n]*$"):
        parse_json(Any, text)
