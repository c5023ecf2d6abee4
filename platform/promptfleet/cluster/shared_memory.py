"""Frozen tensors as one read-only block that every process on a node maps and none can change.

Ray hands out objects read-only, but only as a flag of NumPy's: an in-place operation of torch on such memory would
change the weights of every process on the node. ``seal`` takes the right to write away from the pages themselves.
"""

import ctypes
import mmap
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

ALIGNMENT = 64
PAGE = mmap.PAGESIZE


@dataclass(frozen=True)
class Packed:
    """Tensors in one block ``uint8 [bytes]``; ``index`` has offset, shape and dtype by name.

    A page of padding is at both ends, so that all tensors are within whole pages at any start of the block.
    """

    block: np.ndarray
    index: Mapping[str, tuple[int, tuple[int, ...], str]]


def pack(tensors: Mapping[str, Tensor]) -> Packed:
    """Copy tensors into one block."""
    arrays = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in tensors.items()}
    index, end = {}, PAGE
    for name, array in arrays.items():
        index[name] = (end, array.shape, array.dtype.str)
        end += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    block = np.zeros(end + PAGE, dtype=np.uint8)
    for name, array in arrays.items():
        _view(block, index[name])[...] = array
    return Packed(block, index)


def unpack(packed: Packed) -> dict[str, Tensor]:
    """Return tensors that share the block's memory; nothing is copied."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return {name: torch.from_numpy(_view(packed.block, entry)) for name, entry in packed.index.items()}


def seal(packed: Packed) -> None:
    """Make the block's pages read-only for this process: a write to a tensor in it then ends the process (SIGSEGV).

    The caller keeps ``packed`` for as long as the process lives, or its memory could be handed out again.
    """
    address, size = packed.block.ctypes.data, packed.block.nbytes
    first, last = -(-address // PAGE) * PAGE, (address + size) // PAGE * PAGE
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(first), ctypes.c_size_t(last - first), mmap.PROT_READ):
        raise OSError(ctypes.get_errno(), f"mprotect: {os.strerror(ctypes.get_errno())}")


def _view(block: np.ndarray, entry: tuple[int, tuple[int, ...], str]) -> np.ndarray:
    offset, shape, dtype = entry
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return block[offset : offset + size].view(dtype).reshape(shape)
