import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.io import loadmat, savemat

from promptfleet.data.matlab_file import read_numbers
from tests.samples import SAMPLES, needs_samples

DTYPES = st.sampled_from(["f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])


def written(variables, **options) -> bytes:
    savemat(file := io.BytesIO(), variables, **options)
    return file.getvalue()


@settings(max_examples=30, deadline=None)
@given(
    values=hnp.arrays(DTYPES, hnp.array_shapes(max_dims=2, min_side=0)),
    name=st.from_regex("[a-z]{1,9}", fullmatch=True),
    compressed=st.booleans(),
)
def test_numbers_are_those_that_scipy_writes(values, name, compressed):
    content = written({"text": "flowers", name: values, "cell": {"a": 1}, "complex": 1j}, do_compression=compressed)
    found = read_numbers(content)
    np.testing.assert_array_equal(found[name], values.ravel(order="F"))
    assert found.keys() == {name}


@needs_samples
@pytest.mark.parametrize("file", ["imagelabels.mat", "setid.mat", "subset_setid.mat"])
def test_the_real_files_are_read_as_scipy_reads_them(file):
    path = SAMPLES / "oxford_flowers" / file
    wanted = {name: value for name, value in loadmat(path).items() if not name.startswith("_")}
    found = read_numbers(path.read_bytes())
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[name], value.ravel(order="F")) for name, value in wanted.items())


def packed(data: bytes) -> bytes:
    content = zlib.compress(data)
    return bytes(124) + b"\x00\x01IM" + struct.pack("<II", 15, len(content)) + content


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "no MATLAB file of version 5"),
        (written({"a": [1.0]}, format="4"), "no MATLAB file of version 5"),
        (written({"a": [1.0]})[:-3], "cut short"),
        (written({"a": [1.0, 2.0]}).replace(struct.pack("<ii", 1, 2), struct.pack("<ii", 1, 10**9)), "more or fewer"),
        (packed(bytes(2**26 + 1)), "cut short, or too large"),
        (packed(b"")[:-1], "cut short"),
        (bytes(124) + b"\x00\x01IM" + struct.pack("<II", 15, 4) + b"abcd", "Error -3"),
        (bytes(124) + b"\x00\x01IM" + struct.pack("<II", 14, 2**31), "cut short"),
    ],
)
def test_damaged_ones_are_a_value_error(content, complaint):
    with pytest.raises(ValueError, match=complaint):
        read_numbers(content)
