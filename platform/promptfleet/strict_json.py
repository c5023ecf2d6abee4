"""JSON that any reader accepts; and strict reading of files that may be damaged or crafted."""

import json
import math
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

T = TypeVar("T")
Count = Annotated[int, Field(ge=0, lt=2**63)]  # also an index
Counts = Annotated[list[Count], Field(fail_fast=True)]  # one error, not one per value


def parse_json(kind: type[T], text: str | bytes) -> T:
    """Parse ``text`` as ``kind``, such as a dataclass of plain values; keys that ``kind`` lacks are ignored.

    Types are strict: neither ``true`` nor ``1.0`` nor ``"1"`` is an integer. Memory is bounded by the text's length.

    Raises:
        ValueError: one line with the place of the first value that does not fit. JSON nested more than 200 levels
            deep is refused as well.
    """
    try:
        return _adapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where}: {first['msg']}" if where else first["msg"]) from None


def to_json(value: Any) -> str:
    """Return plain values as indented JSON; NaN and infinities, which JSON lacks, are null."""
    return json.dumps(_finite(value), indent=2, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@cache
def _adapter(kind: Any) -> TypeAdapter:
    return TypeAdapter(kind)
