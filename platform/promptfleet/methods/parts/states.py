"""States as flat named tensors: hashing them, checking them, moving them."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor

from promptfleet.methods.protocol import Message, State

T = TypeVar("T")


def prefixed(prefix: str, state: Mapping[str, T]) -> dict[str, T]:
    """Return the state with ``prefix`` before each name."""
    return {prefix + name: tensor for name, tensor in state.items()}


def unprefixed(prefix: str, state: Mapping[str, T]) -> dict[str, T]:
    """Return the tensors whose names start with ``prefix``, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def joined(state: State) -> Tensor:
    """Return the numbers of all tensors as one vector, in the order of the state."""
    return torch.cat([tensor.flatten() for tensor in state.values()])


def parted(numbers: Tensor, like: State) -> State:
    """Undo ``joined``: return views of ``numbers`` with the names and shapes of ``like``."""
    parts = numbers.split([tensor.numel() for tensor in like.values()])
    return {name: part.view_as(like[name]) for name, part in zip(like, parts, strict=True)}


def state_sha256(server: State, privates: Mapping[int, State]) -> str:
    """Return a hash of names, types, shapes and bytes: the server's tensors by name, then each client's by id."""
    digest = hashlib.sha256()
    for owner, state in [("server", server), *((f"client {client}", privates[client]) for client in sorted(privates))]:
        for name in sorted(state):
            tensor = state[name].detach().cpu().contiguous()
            digest.update(f"{owner}/{name}/{tensor.dtype}/{tuple(tensor.shape)}".encode())
            if tensor.numel():  # torch has no bytes of an empty tensor
                digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def group_by_layout(states: Mapping[int, State]) -> list[dict[int, State]]:
    """Group states by client id: those whose tensors have the same names, shapes and types in the same order."""
    groups: dict[tuple, dict[int, State]] = defaultdict(dict)
    for client, state in states.items():
        layout = tuple((name, tensor.shape, tensor.dtype) for name, tensor in state.items())
        groups[layout][client] = state
    return list(groups.values())


def find_non_finite(state: State) -> str | None:
    """Return the name of the first tensor that holds a NaN or an Inf."""
    for name in sorted(state):
        if state[name].is_floating_point() and not torch.isfinite(state[name]).all():
            return name
    return None


def to_device(value: State | Message, device: torch.device | str) -> State | Message:
    if isinstance(value, Message):
        return Message(to_device(value.tensors, device), to_device(value.attached, device))
    return {name: tensor.to(device) for name, tensor in value.items()}
