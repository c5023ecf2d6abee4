"""Models of several clients that are one and the same, so that shared samples need to be predicted only once."""

from collections.abc import Sequence

import torch

from promptfleet.federation.evaluation.answers import server_model
from promptfleet.methods.protocol import Method, State, Task


def first_with_same_model(method: Method, tasks: Sequence[Task]) -> list[int]:
    """Return for each task the position of the first one that predicts the same, by default its own.

    Clients predict the same if their personalized states are those of the server's model, which predicts from the
    download alone, and their downloads are equal. Not so if a prediction depends on noise or on an order of images,
    since each client has its own.
    """
    places, of_server = list(range(len(tasks))), []
    if method.has_memory or method.draws_to_predict:
        return places
    for place, task in enumerate(tasks):
        model = server_model(method, task)
        if model and _equal(model.private, task.private):
            places[place] = next((first for first in of_server if _same_inputs(tasks[first], task)), place)
            if places[place] == place:
                of_server.append(place)
    return places


def _same_inputs(one: Task, other: Task) -> bool:
    return (
        _equal(one.private, other.private)
        and _equal(one.download.tensors, other.download.tensors)
        and _equal(one.download.attached, other.download.attached)
        and _equal(_candidates(one), _candidates(other))
    )


def _candidates(task: Task) -> State:
    return {} if task.candidates is None else {"candidates": task.candidates}


def _equal(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(
        tensor is other[name] or torch.equal(tensor, other[name]) for name, tensor in one.items()
    )
