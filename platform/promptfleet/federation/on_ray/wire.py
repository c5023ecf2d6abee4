"""States and messages as NumPy arrays, which Ray moves without pickling their content.

States of many clients travel together: a row of bytes for each, with every tensor at the same place in all rows.
Arriving states are copied into torch's own memory: writable, aligned, and with the same bits from any source.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import torch
from torch import Tensor

from promptfleet.federation.client import ClientResult
from promptfleet.methods.parts.states import group_by_layout
from promptfleet.methods.protocol import Message, State

ALIGNMENT = 64  # of each tensor in a row, as torch aligns its own

Arrays = Mapping[str, np.ndarray]
Place = tuple[int, torch.Size, torch.dtype]
Stacked = Sequence["StackedStates"]
StackedResults = tuple[Mapping[int, ClientResult], Stacked]  # without their uploads, and the uploads


@dataclass(frozen=True)
class StackedStates:
    """States with the same names, shapes and types.

    ``rows [clients, bytes]``, by client id in ``row_of``; ``places`` has offset, shape and type of each tensor in a
    row, or None where it is one for all clients (as it is for a single one), and then in ``common``.
    """

    row_of: Mapping[int, int]
    rows: np.ndarray
    places: Mapping[str, Place | None]
    common: Arrays


def to_arrays(state: State) -> Arrays:
    """Return one state by itself."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in state.items()}


def to_tensors(arrays: Arrays) -> State:
    """Undo ``to_arrays``."""
    return {name: torch.tensor(array) for name, array in arrays.items()}


def stack(states: Mapping[int, State]) -> Stacked:
    """Stack states by client id."""
    return [_stack(some) for some in group_by_layout(states)]


def unstack(stacked: Stacked, clients: Sequence[int]) -> dict[int, State]:
    """Return the states of some of the stacked clients, in the order of ``clients``."""
    states: dict[int, State] = {}
    for group in _of_one_layout(stacked):
        here = [(some, chosen) for some in group if (chosen := [one for one in clients if one in some.row_of])]
        states |= _unstack(here) if here else {}
    return {client: states[client] for client in clients}


def join(parts: Sequence[Stacked], clients: Sequence[Sequence[int]]) -> Stacked:
    """Join some clients of each part, as if they had been stacked together."""
    return [
        replace(some, row_of={client: some.row_of[client] for client in here if client in some.row_of})
        for part, here in zip(parts, clients, strict=True)
        for some in part
    ]


def stack_messages(messages: Mapping[int, Message]) -> Stacked:
    """Stack messages by client id."""
    return stack({client: _flat(message) for client, message in messages.items()})


def unstack_messages(stacked: Stacked, clients: Sequence[int]) -> dict[int, Message]:
    """Return the messages of some of the stacked clients, like ``unstack``."""
    return {client: _message(flat) for client, flat in unstack(stacked, clients).items()}


def stack_results(results: Mapping[int, ClientResult]) -> StackedResults:
    """Stack the part of clients' results that the server gets, by client id."""
    uploads = {client: one.upload for client, one in results.items() if one.upload is not None}
    return {client: replace(one.for_server(), upload=None) for client, one in results.items()}, stack_messages(uploads)


def unstack_results(stacked: StackedResults) -> dict[int, ClientResult]:
    """Undo ``stack_results``."""
    results, messages = stacked
    uploads = unstack_messages(messages, [client for one in messages for client in one.row_of])
    return {client: replace(one, upload=uploads.get(client)) for client, one in results.items()}


def _stack(states: Mapping[int, State]) -> StackedStates:
    first = next(iter(states.values()))
    common, places, width = {}, {}, 0
    for name, tensor in first.items():
        if all(state[name] is tensor for state in states.values()):
            common[name], places[name] = tensor, None
        else:
            places[name] = width, tensor.shape, tensor.dtype
            width += (tensor.nbytes // ALIGNMENT + 1) * ALIGNMENT
    rows = torch.zeros(len(states), width, dtype=torch.uint8)
    for name in places.keys() - common.keys():
        torch.stack([state[name].detach().cpu() for state in states.values()], out=_column(rows, places[name]))
    row_of = {client: row for row, client in enumerate(states)}
    return StackedStates(row_of, rows.numpy(), places, to_arrays(common))


def _of_one_layout(stacked: Stacked) -> list[list[StackedStates]]:
    """Group stacks whose rows have one layout; a stack with common tensors is a group of its own."""
    groups: dict[tuple, list[StackedStates]] = defaultdict(list)
    for some in stacked:
        groups[(id(some) if some.common else None, *some.places.items())].append(some)
    return list(groups.values())


def _unstack(chosen: Sequence[tuple[StackedStates, Sequence[int]]]) -> dict[int, State]:
    """Return the state of each chosen client, from stacks of one layout."""
    first, clients = chosen[0][0], [client for _, some in chosen for client in some]
    rows = torch.empty(len(clients), first.rows.shape[1], dtype=torch.uint8)
    for (some, here), out in zip(chosen, rows.split([len(here) for _, here in chosen]), strict=True):
        if some.rows.size:
            wanted = [some.row_of[client] for client in here]
            np.take(some.rows, wanted, axis=0, out=out.numpy(), mode="clip")  # other modes copy twice
    common = to_tensors(first.common)
    columns = [
        [common[name]] * len(clients) if place is None else _column(rows, place).unbind()
        for name, place in first.places.items()
    ]
    return {
        client: dict(zip(first.places, (column[row] for column in columns), strict=True))
        for row, client in enumerate(clients)
    }


def _column(rows: Tensor, place: Place) -> Tensor:
    """Return ``[clients, *shape]``: that tensor of all rows, in place."""
    offset, shape, dtype = place
    return rows[:, offset : offset + prod(shape) * dtype.itemsize].view(dtype).view(len(rows), *shape)


def _flat(message: Message) -> State:
    parts = {"tensors": message.tensors, "attached": message.attached}
    return {f"{part}/{name}": tensor for part, state in parts.items() for name, tensor in state.items()}


def _message(flat: State) -> Message:
    parts: dict[str, State] = {"tensors": {}, "attached": {}}
    for full_name, tensor in flat.items():
        part, _, name = full_name.partition("/")
        parts[part][name] = tensor
    return Message(**parts)
