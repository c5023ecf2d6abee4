"""States and messages as NumPy arrays, which Ray moves without pickling their content.

Arriving arrays are copied into torch's own memory: writable, aligned, and the same bits wherever they came from.
"""

from typing import Any

import torch

from promptfleet.federation.client import Upload
from promptfleet.methods.protocol import Message


def to_arrays(value: Any) -> Any:
    """Replace every tensor of a state, message or upload by an array."""
    return _map(value, lambda tensor: tensor.detach().cpu().numpy())


def to_tensors(value: Any) -> Any:
    """Undo ``to_arrays``."""
    return _map(value, torch.tensor)


def _map(value: Any, convert) -> Any:
    if isinstance(value, dict):
        return {name: convert(item) for name, item in value.items()}
    if isinstance(value, Message):
        return Message(_map(value.tensors, convert), _map(value.attached, convert))
    if isinstance(value, Upload):
        message = None if value.message is None else _map(value.message, convert)
        return Upload(message, value.num_examples, value.problem)
    raise TypeError(f"cannot send a {type(value).__name__}")
