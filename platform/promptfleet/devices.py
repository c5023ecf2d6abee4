"""The one place that decides where a process computes: on the CPU, or on the GPU that it may use.

Clients, and the encoding of images, follow ``runtime.device``. The server computes on the CPU, whatever clients do: its
states are checkpointed there, and its numbers are then the same with and without Ray. Pretraining uses the CPU alone.
"""

from typing import TYPE_CHECKING, Literal

from promptfleet.errors import ResourceError

if TYPE_CHECKING:
    import numpy as np
    import torch

Wanted = Literal["auto", "cpu", "cuda"]
SERVER_DEVICE = "cpu"


def check_device(wanted: Wanted, gpus: float, where: str = "on this machine") -> None:
    """Raise ResourceError if ``wanted`` is a GPU and there are none; ``gpus`` is how many there are ``where``."""
    if wanted == "cuda" and gpus < 1:
        raise ResourceError(f"runtime.device=cuda: there is no GPU {where} that torch can use; set it to auto or cpu")


def choose_device(wanted: Wanted) -> "torch.device":
    """Return where this process computes: ``auto`` is the GPU if torch can use one. Raises ResourceError."""
    import torch

    usable = wanted != "cpu" and torch.cuda.is_available()
    check_device(wanted, float(usable))
    return torch.device("cuda" if usable else "cpu")


def from_numpy(array: "np.ndarray", device: "torch.device") -> "torch.Tensor":
    """Return ``array`` as a tensor on ``device``. On the CPU it shares the array's memory.

    To a GPU it is copied from pinned memory, and nothing waits for the copy.
    """
    import torch

    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
