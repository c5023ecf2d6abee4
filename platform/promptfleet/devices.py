"""The choice of the device of a process: the CPU, or the GPU that it may use.

Clients, and the encoding of images, follow ``runtime.device``. The server keeps its state on the CPU and computes
there, unless ``resources.server.gpu`` gives it a share: its numbers are then the same with and without Ray. Pretraining
is on GPUs where Ray has one for each of its workers.
"""

import os
from typing import TYPE_CHECKING, Literal

from promptfleet.errors import ResourceError

if TYPE_CHECKING:
    import numpy as np
    import torch

Wanted = Literal["auto", "cpu", "cuda"]
CUBLAS_WORKSPACE = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats its bits; it is read when CUDA starts


def check_device(wanted: Wanted, gpus: float, where: str = "on this machine") -> None:
    """Raise ResourceError if ``wanted`` is a GPU and ``gpus``, the number of GPUs ``where``, is 0."""
    if wanted == "cuda" and gpus < 1:
        raise ResourceError(f"runtime.device=cuda: there is no GPU {where} that torch can use; set it to auto or cpu")


def gpu_sizes() -> list[int]:
    """Return the bytes of memory of each GPU that this process sees."""
    import torch

    return [torch.cuda.get_device_properties(gpu).total_memory for gpu in range(torch.cuda.device_count())]


def check_visible(device: "torch.device", given: int) -> None:
    """Raise ResourceError if a process that was ``given`` this many GPUs sees others, too."""
    import torch

    if device.type == "cuda" and torch.cuda.device_count() > given:
        raise ResourceError(
            f"an actor was given {given} GPU(s) and sees {torch.cuda.device_count()}: start Ray without "
            f"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES, so that CUDA_VISIBLE_DEVICES keeps actors apart"
        )


def choose_device(wanted: Wanted) -> "torch.device":
    """Return the device of this process: ``auto`` is the GPU if torch can use one. Raises ResourceError."""
    import torch

    usable = wanted != "cpu" and torch.cuda.is_available()
    check_device(wanted, float(usable))
    if usable:
        os.environ.setdefault(*CUBLAS_WORKSPACE)
    return torch.device("cuda" if usable else "cpu")


def set_arithmetic(device: "torch.device", *, tf32: bool = False) -> None:
    """Make this process compute the same bits on its GPU each time, with float32 products in TF32 only if ``tf32``.

    Operations of which CUDA has no such version warn. On the CPU, torch stays as it is.
    """
    if device.type != "cuda":
        return
    import torch
    import torch.utils.deterministic

    torch.set_deterministic_debug_mode("warn")
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = False


def release_memory(device: "torch.device") -> None:
    """Release GPU memory that this process holds but does not use."""
    if device.type == "cuda":
        import torch

        torch.cuda.empty_cache()


def from_numpy(array: "np.ndarray", device: "torch.device") -> "torch.Tensor":
    """Return ``array`` as a tensor on ``device``, as ``moved`` does. On the CPU it shares the array's memory."""
    import torch

    return moved(torch.from_numpy(array), device)


def moved(tensor: "torch.Tensor", device: "torch.device") -> "torch.Tensor":
    """Return a tensor of the CPU on ``device``: a GPU copies it from pinned memory, without waiting."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
