import os
import pickle
import pickletools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptfleet.data.closed_pickle import load_pickle
from promptfleet.errors import DataError

ARRAYS = {
    "pixels": np.arange(24, dtype=np.uint8).reshape(2, 12),
    "columns first": np.asfortranarray(np.arange(6, dtype=np.uint8).reshape(2, 3)),
    "text": np.array(["a/b.jpg", "über"]),
    "bytes": np.array([b"ab", b"c"]),
    "objects": np.array(["a/b.jpg", "c"], dtype=object),
    "the other byte order": np.array([1, 70000], dtype=">i4"),
    "one number": np.array(5),
    "nothing": np.zeros((0, 3)),
}


class Call:
    """Pickles as a call of ``function``, which a plain unpickler makes."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


@pytest.fixture
def pickled(tmp_path):
    def write(content):
        path = tmp_path / "data_batch_1"
        path.write_bytes(content)
        return path

    return write


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("core", [b"numpy.core.", b"numpy._core."])
def test_arrays_of_every_protocol_and_both_names_of_numpy(pickled, protocol, core):
    content = pickle.dumps({b"data": ARRAYS, "": b""}, protocol=protocol)
    if protocol < 4:  # later ones write a name's length before it
        content = re.sub(rb"numpy\._?core\.", core, content)
    found = load_pickle(pickled(content))
    assert found[""] == b""
    for name, array in ARRAYS.items():
        assert np.asarray(found[b"data"][name]).tolist() == array.tolist(), name
        assert found[b"data"][name].dtype.kind == array.dtype.kind


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_lists_of_numpy_s_numbers_and_texts(pickled, protocol):
    found = load_pickle(pickled(pickle.dumps([np.int64(70000), np.str_("a/b.jpg"), np.float32(0.5)], protocol)))
    assert found == [70000, "a/b.jpg", 0.5]
    assert [type(value) for value in found] == [np.int64, np.str_, np.float32]


# Python 2.7's pickle.dumps({"labels": [6, 9], "data": numpy.array([[0, 200]], "uint8")}, 2), taken apart.
PYTHON_2 = (
    b"\x80\x02}q\x00(U\x06labelsq\x01]q\x02(K\x06K\teU\x04dataq\x03cnumpy.core.multiarray\n_reconstruct\nq\x04cnumpy\n"
    b"ndarray\nq\x05K\x00\x85q\x06U\x01bq\x07\x87q\x08Rq\t(K\x01K\x01K\x02\x86q\ncnumpy\ndtype\nq\x0bU\x02u1q\x0cK\x00K"
    b"\x01\x87q\rRq\x0e(K\x03U\x01|q\x0fNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x10b\x89U\x02\x00\xc8q\x11tq\x12bu."
)


def test_strings_of_python_2(pickled):
    found = load_pickle(pickled(PYTHON_2))
    assert found["labels"] == [6, 9]
    assert np.asarray(found["data"]).tolist() == [[0, 200]]


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Call(os.system, "touch {marker}"), "posix.system"),
        (Call(eval, "open('{marker}', 'w')"), "builtins.eval"),
        (Call(getattr, "x", "upper"), "builtins.getattr"),
        (Call(open, "{marker}", "w"), "io.open"),
        ({"data": np.array([Call(os.system, "touch {marker}")], dtype=object)}, "posix.system"),
        ((np.array(["a"]), [Call(exec, "1")]), "builtins.exec"),
        (Call(np.save, "{marker}", 1), "numpy.save"),
        (Call(np.fromfile, "{marker}"), "numpy.fromfile"),
        (np.random.default_rng(0), "numpy.random._pickle.__generator_ctor"),
        (DataError, "promptfleet.errors.DataError"),
    ],
)
@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_any_other_name_is_refused_and_not_run(pickled, tmp_path, monkeypatch, value, name, protocol):
    monkeypatch.chdir(tmp_path)
    path = pickled(pickle.dumps(value, protocol=protocol).replace(b"{marker}", b"--run---"))
    with pytest.raises(DataError, match=f"^{re.escape(str(path))}: refused, for it names {re.escape(name)};"):
        load_pickle(path)
    assert os.listdir(tmp_path) == ["data_batch_1"]


def test_an_array_cannot_claim_that_numbers_are_objects(pickled):
    """numpy would take eight bytes of a file for the address of an object if a dtype's flags say so."""
    content = pickle.dumps(np.array(["x"], dtype=object), protocol=2)
    as_list = next(pos for op, _, pos in pickletools.genops(content) if op.name == "EMPTY_LIST")
    with pytest.raises(DataError, match="an array of objects without its list"):
        load_pickle(pickled(content[:as_list] + b"U\x08AAAAAAAAtb."))


def test_a_pickle_cannot_change_the_reader(pickled):
    """BUILD sets attributes; on what stands in for numpy's functions it finds none."""
    with pytest.raises(DataError, match="no readable pickle"):
        load_pickle(pickled(b"\x80\x02cnumpy\ndtype\nN}U\x05buildcnumpy\nndarray\ns\x86b."))
    assert np.asarray(load_pickle(pickled(PYTHON_2))["data"]).tolist() == [[0, 200]]


@pytest.mark.parametrize(
    ("array", "dtype"), [(np.array([1 + 2j]), "c16"), (np.array([(1, 2)], dtype="u1,u1"), "V2"), (np.void(b"x"), "")]
)
def test_other_kinds_of_arrays_are_refused(pickled, array, dtype):
    with pytest.raises(DataError, match=f"refused, for it names.*{dtype}"):
        load_pickle(pickled(pickle.dumps(array, protocol=2)))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"K\x01K\x02\x86", b"K\x01K\x03\x86", "more or fewer bytes than its shape says"),
        (b"K\x01K\x02\x86", b"J\xff\xff\xff\xffJ\xfe\xff\xff\xff\x86", "an impossible shape"),  # -1 x -2
        (b"K\x01K\x02\x86", b"K\x00\x8a\x05\x00\x00\x00\x00\x7f\x86", "an impossible shape"),  # 0 x 2**39
        (b"K\x01K\x02\x86", b"J\x00\x00\x00\x7fK\x00\x86", "an impossible shape"),  # two billion empty rows
        (b"U\x02u1", b"U\x02S0", "it names an array of dtype 'S0'"),  # of which any number takes no bytes
        (b"U\x02u1", b"U\x02U0", "it names an array of dtype 'U0'"),
        (b"K\x01K\x02\x86", b"K\x01\x88\x86", "an impossible shape"),  # 1 x True
        (b"]q\x02", b"]r\xff\xff\xff\x1f", "an entry 536870911 of its memory"),  # which would be half a gigabyte
        (b"U\x02\x00\xc8", b"J\xff\xff\xff\x7f", "an array without its bytes"),  # bytes(2**31 - 1) in Python
    ],
)
def test_an_array_s_shape_and_bytes_have_to_fit(pickled, old, new, message):
    assert old in PYTHON_2
    with pytest.raises(DataError, match=message):
        load_pickle(pickled(PYTHON_2.replace(old, new)))


@pytest.mark.parametrize(("shape", "dtype"), [((2**31 - 1, 0), "u1"), ((0, 2**31 - 1), "f4"), ((2**40,), "u1")])
def test_an_array_of_protocol_5_has_to_fit_too(pickled, shape, dtype):
    """An empty array of two billion rows would be two billion lists."""
    content = pickle.dumps(Call(np._core.numeric._frombuffer, b"", np.dtype(dtype), shape, "C"), protocol=5)
    with pytest.raises(DataError, match="an array of an impossible shape"):
        load_pickle(pickled(content))


@given(st.integers(0, len(PYTHON_2) - 1))
def test_a_pickle_cut_short_says_so(tmp_path_factory, length):
    path = tmp_path_factory.mktemp("cut", numbered=True) / "test_batch"
    path.write_bytes(PYTHON_2[:length])
    with pytest.raises(DataError, match=f"^{re.escape(str(path))}: no readable pickle, cut short or damaged"):
        load_pickle(path)


@given(st.binary(max_size=60))
def test_whatever_is_in_the_file_there_is_a_value_or_a_line(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any", numbered=True) / "test_batch"
    path.write_bytes(b"\x80\x02" + content)
    message = ""
    try:
        load_pickle(path)
    except DataError as error:
        message = str(error)
    assert message == "" or (message.startswith(f"{path}: ") and message.isprintable())


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match="test_batch: there is no such file"):
        load_pickle(tmp_path / "test_batch")
