"""The space of a method that no file has one for."""

from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from promptfleet.config import FederationConfig
from promptfleet.search.default_space import default_space
from promptfleet.search.space import parse_parameter


class OwnConfig(FederationConfig):
    share: float = Field(0.3, ge=0, lt=1)
    temperature: float = Field(2.0, gt=1.5)
    weight: float = Field(0.0, ge=0)
    rank: int = Field(4, ge=1)
    limit: float | None = Field(None, gt=0)


KEYS = ("share", "temperature", "weight", "rank", "limit")


def test_real_numbers_above_zero_range_around_their_values_within_their_bounds():
    space = default_space(OwnConfig(), ["prompt_lr", *KEYS])
    assert set(space) == {"prompt_lr", "share", "temperature"}
    assert space["prompt_lr"] == {"float": [0.002, 0.2], "log": True}
    (low, high), (lowest, highest) = space["share"]["float"], space["temperature"]["float"]
    assert (low, highest) == (0.03, 20.0)
    assert 0.999 < high < 1, "1 is excluded"
    assert 1.5 < lowest < 1.501, "1.5 is excluded"


@given(share=st.floats(1e-300, 1, exclude_max=True), limit=st.none() | st.floats(1e-300, 1e30))
def test_every_value_and_both_ends_are_valid(share, limit):
    config = OwnConfig(share=share, limit=limit)
    for key, entry in default_space(config, KEYS).items():
        parameter = parse_parameter(key, entry, source="default")
        assert parameter.contains(getattr(config, key))
        for end in parameter.extremes():
            OwnConfig(**{key: end})
