"""Reader of pickled dataset files that calls nothing that they name, since they come from strangers.

A pickle is a program. This reader lets it build numbers, text, bytes, tuples, lists and dicts, and arrays of numbers or
text; for each allowed name it gets a replacement of ours that builds just that, never the object of that name. Every
other name is refused before anything is called.
"""

import io
import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from promptfleet.data.regular_files import open_regular
from promptfleet.errors import DataError
from promptfleet.pickle_outline import check_pickle

NDARRAY = "numpy.ndarray"  # in place of the class that a pickle passes to _reconstruct
PLAIN_DTYPE = re.compile(r"[|<>=]?(b1|[iu][1248]|f[248]|[SU][1-9]\d*|O8?)")
LARGEST_EMPTY = 2**16  # elements of an array without any, were its empty dimensions of length 1


def load_pickle(path: str | Path) -> Any:
    """Return the value in a pickle of CIFAR or FedBN, of any protocol; strings of Python 2 are read as latin-1.

    Raises:
        DataError: if the file cannot be read, is cut short or damaged, or names what these datasets do not need.
    """
    path = Path(path)
    try:
        with open_regular(path) as file:
            content = file.read()
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        check_pickle(io.BytesIO(content), len(content))
        return _ClosedUnpickler(io.BytesIO(content), encoding="latin1").load()
    except _RefusedNameError as error:
        raise DataError(
            f"{path}: refused, for it names {_one_line(error)}; a dataset's pickle holds only numbers, text, lists, "
            f"dicts and numpy arrays of these. Nothing of it was run; do not use this file"
        ) from None
    except Exception as error:  # a damaged program can fail in any way
        reason = _one_line(error) or type(error).__name__
        raise DataError(f"{path}: no readable pickle, cut short or damaged ({reason}); get the file again") from None


def _one_line(error: Exception) -> str:
    """Return the error's text without control characters, which a file might use to draw on the terminal."""
    return "".join(character if character.isprintable() else " " for character in str(error))


class _RefusedNameError(Exception):
    """A pickle names something that is not on the list."""


class _StandIn(NamedTuple):
    """Replacement for a function that a pickle names. A tuple, so the pickle cannot set attributes on it."""

    build: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        return self.build(*arguments)


class _Array(np.ndarray):
    """An array whose state is checked before numpy sees it: numpy itself trusts the flags of a pickled dtype."""

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran_order, content = state
        plain = dtype.plain
        size = _size(shape)
        if plain.hasobject:
            if not isinstance(content, list) or len(content) != size:
                raise ValueError("an array of objects without its list")
        else:
            content = _raw(content)
            if len(content) != size * plain.itemsize:
                raise ValueError("an array with more or fewer bytes than its shape says")
        super().__setstate__((1, shape, plain, bool(fortran_order), content))


class _Dtype:
    """A dtype by its code, such as ``U53``; of its pickled state only the byte order counts."""

    __slots__ = ("plain",)

    def __init__(self, code: str | bytes, align: bool = False, copy: bool = True) -> None:
        code = code.decode("latin1") if isinstance(code, bytes) else code
        if not PLAIN_DTYPE.fullmatch(code):
            raise _RefusedNameError(f"an array of dtype {code!r}")
        self.plain = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        self.plain = self.plain.newbyteorder({"<": "<", ">": ">", "|": "|", "=": "="}[state[1]])


def _reconstruct(kind: str, shape: tuple, code: Any) -> np.ndarray:
    """Return an empty array, which gets its content by ``__setstate__``."""
    if kind != NDARRAY:
        raise _RefusedNameError(f"an array of class {kind!r}")
    return np.ndarray.__new__(_Array, (0,), np.int8)


def _frombuffer(content: bytes, dtype: _Dtype, shape: tuple, order: str, axes: tuple | None = None) -> np.ndarray:
    """Return an array from protocol 5."""
    if axes is not None:
        raise _RefusedNameError("an array with permuted axes")
    _size(shape)
    return np.frombuffer(_raw(content), dtype.plain).reshape(shape, order=order)


def _scalar(dtype: _Dtype, content: bytes) -> np.generic:
    """Return one number or text of numpy's, as in a list made from an array."""
    (value,) = np.frombuffer(_raw(content), dtype.plain)
    return value


def _size(shape: tuple) -> int:
    """Return an array's number of elements. Raises ValueError if its rows would take memory that its bytes do not."""
    possible = all(type(length) is int and 0 <= length < 2**31 for length in shape)
    if not possible or (0 in shape and math.prod(filter(None, shape)) > LARGEST_EMPTY):
        raise ValueError("an array of an impossible shape")
    return math.prod(shape)


def _raw(content: bytes | bytearray | str) -> bytes:
    """Return an array's bytes, which Python 2 wrote as a string."""
    if not isinstance(content, (bytes, bytearray, str)):
        raise ValueError("an array without its bytes")
    return content.encode("latin1") if isinstance(content, str) else bytes(content)


def _encode(text: str, encoding: str) -> bytes:
    """Return bytes from protocol 2."""
    if encoding != "latin1":
        raise _RefusedNameError(f"the encoding {encoding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """Return empty bytes from protocol 2."""
    return b""


STAND_INS = {
    "numpy.ndarray": NDARRAY,
    "numpy.dtype": _StandIn(_Dtype),
    "_codecs.encode": _StandIn(_encode),
    "builtins.bytes": _StandIn(_no_bytes),
    **{f"numpy.{core}.multiarray._reconstruct": _StandIn(_reconstruct) for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _StandIn(_scalar) for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _StandIn(_frombuffer) for core in ("core", "_core")},
}


class _ClosedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        module = "builtins" if module == "__builtin__" else module  # as Python 2 called it
        try:
            return STAND_INS[f"{module}.{name}"]
        except KeyError:
            raise _RefusedNameError(f"{module}.{name}") from None
