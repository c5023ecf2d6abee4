"""A card that torch only pretends to have: tensors that claim to be elsewhere, and hold their numbers on the CPU.

It counts what makes a program wait for a real card, or copies to and from it, and refuses what CUDA refuses. Its device
is called ``meta``, the only one that autograd runs everywhere, and everything has to happen within ``with Card()``.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

CARD = torch.device("meta")
CPU = torch.device("cpu")
MOVES = ("aten::_to_copy", "aten::copy_")
INDEXES = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")
READS = (  # the size of what they return, or where they go on, depends on values
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::equal",
    "aten::is_nonzero",
    "aten::bincount",
    "aten::repeat_interleave",
)


class OnCard(Tensor):
    """A tensor on the card."""

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnCard":
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        return torch.Tensor._make_wrapper_subclass(cls, held.shape, device=CARD, **layout)

    def __init__(self, held: Tensor):
        self.held = held

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __repr__(self, **_: Any) -> str:
        return f"OnCard({self.held})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise AssertionError(f"{function}: something on the card was used outside of `with Card()`")


class Card(TorchDispatchMode):
    """Within it there is a card, whose ``counts`` are of copies "to the card", "to the CPU", and of "reads"."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or else torch imports its compiler, for seconds

    def __init__(self):
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.places: Counter[str] = Counter()  # by operation

    def __enter__(self) -> "Card":
        self._without = ExitStack()  # what torch refuses to do with tensors of this device or of a class of ours
        self._without.enter_context(patch("torch.autocast", lambda *_, **__: nullcontext()))
        self._without.enter_context(patch("torch.inference_mode", torch.no_grad))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._without.close()

    def __torch_dispatch__(self, function, types, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None):
        name, kwargs = function._schema.name, dict(kwargs or {})
        tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
        here = [one for one in tensors if isinstance(one, OnCard)]
        wanted = kwargs.get("device")
        goes_to = torch.device(wanted) if wanted is not None else (CARD if here else CPU)
        if goes_to.type == CPU.type and not here:
            return function(*args, **kwargs)
        self._account(name, tensors, here, goes_to)
        if wanted is not None:
            kwargs["device"] = CPU
        held = function(*tree_map(_held, args), **tree_map(_held, kwargs))
        if name == "aten::_local_scalar_dense" or goes_to.type == CPU.type:
            return held
        if name.endswith("_"):  # in place
            return args[0]
        return tree_map(lambda value: OnCard(value) if isinstance(value, Tensor) else value, held)

    def _account(self, name: str, tensors: Sequence[Tensor], here: Sequence[Tensor], goes_to: torch.device) -> None:
        elsewhere = [one for one in tensors if not isinstance(one, OnCard)]
        if name in MOVES and (elsewhere or goes_to.type == CPU.type):
            self._count("to the CPU" if goes_to.type == CPU.type else "to the card", name)
        elif name in INDEXES:
            places = tensors[1:]
            if any(not isinstance(one, OnCard) for one in places):
                self._count("to the card", name)
            if any(one.dtype == torch.bool for one in places):
                self._count("reads", name)
        elif name in READS:
            self._count("reads", name)
        elif any(one.dim() for one in elsewhere) and here:
            raise RuntimeError(f"{name}: expected all tensors to be on the same device")

    def _count(self, what: str, name: str) -> None:
        self.counts[what] += 1
        self.places[f"{what}: {name}"] += 1


def _held(value: Any) -> Any:
    return value.held if isinstance(value, OnCard) else value
