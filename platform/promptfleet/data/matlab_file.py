"""Reader of numbers in MATLAB files of version 5; scipy's reader crashes the process on some damaged files.

Source: MathWorks, *MAT-File Format*, chapter 1, level 5.
"""

import math
import struct
import zlib
from collections.abc import Iterator

import numpy as np

HEADER = 128  # bytes
MOST_UNPACKED = 2**26  # bytes of a compressed variable
_MATRIX, _COMPRESSED = 14, 15
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_NUMERIC_CLASSES = range(6, 16)  # double, single and integers
_COMPLEX = 0x800
_ORDERS = {b"IM": "<", b"MI": ">"}


def read_numbers(content: bytes) -> dict[str, np.ndarray]:
    """Return a file's real arrays by name, flattened. Raises ValueError: damaged, or no file of version 5."""
    order = _ORDERS.get(content[HEADER - 2 : HEADER])
    if order is None:
        raise ValueError("no MATLAB file of version 5")
    found = {}
    for kind, data in _elements(content[HEADER:], order):
        if kind == _COMPRESSED:
            (kind, data), *_ = _elements(_unpacked(data), order)
        if kind == _MATRIX and (variable := _variable(data, order)):
            name, values = variable
            found[name] = values
    return found


def _elements(content: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Yield type and data of each element."""
    at = 0
    while at < len(content):
        if len(content) - at < 8:
            raise ValueError("cut short")
        kind, size = struct.unpack_from(f"{order}II", content, at)
        if kind >> 16:  # a short one, whose data is where the size would be
            kind, size, start, after = kind & 0xFFFF, kind >> 16, at + 4, at + 8
            if size > 4:
                raise ValueError("an element of an impossible size")
        else:
            start, after = at + 8, at + 8 + size + (0 if kind == _COMPRESSED else -size % 8)
        if start + size > len(content):
            raise ValueError("cut short")
        yield kind, content[start : start + size]
        at = after


def _unpacked(data: bytes) -> bytes:
    unpacking = zlib.decompressobj()
    try:
        content = unpacking.decompress(data, MOST_UNPACKED)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if not unpacking.eof:
        raise ValueError("cut short, or too large")
    return content


def _variable(data: bytes, order: str) -> tuple[str, np.ndarray] | None:
    """Return name and values of a matrix; None if it holds other things than real numbers."""
    (_, flags), (_, lengths), (_, name), *parts = _elements(data, order)
    if len(flags) != 8 or len(lengths) % 4:
        raise ValueError("a variable without its shape")
    (word, _) = struct.unpack(f"{order}II", flags)
    if word & 0xFF not in _NUMERIC_CLASSES or word & _COMPLEX or not parts:
        return None
    kind, numbers = parts[0]
    if kind not in _TYPES:
        raise ValueError(f"numbers of type {kind}")
    values = np.frombuffer(numbers, np.dtype(_TYPES[kind]).newbyteorder(order))
    if math.prod(struct.unpack(f"{order}{len(lengths) // 4}i", lengths)) != len(values):
        raise ValueError("more or fewer numbers than its shape says")
    return name.decode("latin1"), values
