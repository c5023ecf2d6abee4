import contextlib
import io
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptfleet import pickle_outline
from promptfleet.pickle_outline import DEEPEST, check_pickle

PLAIN = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=5))
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.text(max_size=3), inner, max_size=4),
        st.frozensets(PLAIN, max_size=3),
    ),
    max_leaves=20,
)


def check(content: bytes) -> None:
    check_pickle(io.BytesIO(content), len(content))


@given(VALUES, st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_what_python_pickles_is_taken_and_read_to_its_end(value, protocol):
    content = pickle.dumps([value, value], protocol)
    file = io.BytesIO(content + b"next")
    check_pickle(file, len(content))
    assert file.read() == b"next"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_many_numbers_of_numpy_are_taken(protocol):
    check(pickle.dumps([*np.arange(5000), *np.array(["a/b.jpg"] * 99), np.zeros((3, 4))], protocol))


def within(levels: int, opening: bytes, closing: bytes) -> bytes:
    return b"\x80\x02" + opening * levels + b")" + closing * levels + b"."


CYCLE = b"\x80\x02]q\x00h\x00a."  # a list whose element is itself
LAUGHS = b"\x80\x02]q\x00" + b"".join(  # each list holds the one before sixty times
    b"](" + b"h%c" % level * 60 + b"eq%c" % (level + 1) for level in range(12)
)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"\x80\x02]r\xff\xff\xff\x7f.", "an entry 2147483647 of its memory"),
        (b"\x80\x02]p999999999\n.", "an entry 999999999 of its memory"),
        (b"\x80\x02h\x05.", "no entry 5 in its memory"),
        (within(DEEPEST, b"", b"\x85"), "nested too deeply"),
        (within(20_000, b"", b"\x85"), "nested too deeply"),
        (within(20_000, b"(", b"t"), "nested too deeply"),
        (within(20_000, b"", b"\x85")[:-1] + b"0N.", "nested too deeply"),  # also what is thrown away again
        (b"\x80\x02}" + b")" + b"\x85" * 20_000 + b"K\x01s.", "nested too deeply"),
        (b"\x80\x02]q\x00" + b"h\x00]q\x00a" * 200 + b".", "nested too deeply"),  # the outer ones first
        (CYCLE, "a value that holds itself"),
        (b"\x80\x02]q\x00h\x00\x85a.", "a value that holds itself"),
        (LAUGHS + b".", "more values than its length explains"),
        (b"\x80\x02\x96\xff\xff\xff\xff\x01\x00\x00\x00.", "expected"),  # a bytearray of 8 GB
        (b"\x80\x02K\x01K\x02b.", "adds to a value that holds none"),
        (b"\x80\x02a.", "nothing on its stack"),
        (b"\x80\x02(a.", "nothing on its stack"),
        (b"\x80\x02e.", "nothing on its stack"),
        (b"hello", "no entry|no operation|cut short"),
        (b"", "cut short"),
    ],
)
def test_what_costs_more_than_it_says_is_refused(content, complaint):
    with pytest.raises(ValueError, match=complaint):
        check(content)


def test_values_that_hold_values_are_counted(monkeypatch):
    monkeypatch.setattr(pickle_outline, "MOST_BUILT", 1000)
    check(b"\x80\x02" + b"]" * 1000 + b".")
    with pytest.raises(ValueError, match="more than 1000 lists"):
        check(b"\x80\x02" + b"]" * 1001 + b".")


@given(st.binary(max_size=40))
def test_any_bytes_are_a_pickle_or_a_value_error(content):
    with contextlib.suppress(ValueError):
        check(b"\x80\x02" + content)
