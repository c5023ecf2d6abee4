"""Reading the tensors of a TorchScript archive, such as OpenAI's CLIP files, with a closed unpickler.

``torch.jit.load`` compiles the archive's code and runs its ``__setstate__``; here only data is looked at.
"""

import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

_DTYPES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
}
_CLASS = re.compile(r"^class (\w+)\(Module\):\n((?:  __.*\n)*)", re.MULTILINE)
_DECLARED = re.compile(r"__(?:parameters|buffers)__ = \[(.*?)\]")


class _Script:
    """Stands for an instance of a class of the archive: its attributes, none of its code."""

    name: str


class _Storage(NamedTuple):
    data: Tensor


def is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Parameters and buffers by the names that ``state_dict`` of the archived module gives them.

    Raises:
        pickle.UnpicklingError: the archive refers to anything but tensors, plain values and its own classes.
        zipfile.BadZipFile, ValueError: a damaged archive.
    """
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        prefix = next(name for name in names if name.endswith("/constants.pkl")).removesuffix("constants.pkl")
        declared = {}
        for name in names:
            if name.startswith(f"{prefix}code/") and name.endswith(".py"):
                module = name.removeprefix(f"{prefix}code/").removesuffix(".py").replace("/", ".")
                declared |= _declarations(module, archive.read(name).decode())
        try:
            with archive.open(f"{prefix}data.pkl") as file:
                root = _Unpickler(file, archive, prefix).load()
        except (KeyError, AttributeError, IndexError, TypeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None
    if not isinstance(root, _Script):
        raise pickle.UnpicklingError("holds no module")
    return dict(_state(root, declared, ""))


def _declarations(module: str, code: str) -> dict[str, set[str]]:
    """Names of the parameters and buffers of each class in a file of the archive's code."""
    return {
        f"{module}.{found[1]}": {name for line in _DECLARED.findall(found[2]) for name in re.findall(r'"(\w+)"', line)}
        for found in _CLASS.finditer(code)
    }


def _state(module: _Script, declared: dict[str, set[str]], prefix: str) -> Iterator[tuple[str, Tensor]]:
    own = declared.get(type(module).name, set())
    for name, value in vars(module).items():
        if isinstance(value, _Script):
            yield from _state(value, declared, f"{prefix}{name}.")
        elif isinstance(value, Tensor) and name in own:
            yield f"{prefix}{name}", value


class _Unpickler(pickle.Unpickler):
    """Knows tensors, lists and the archive's own classes, which become ``_Script``; refuses every other name."""

    def __init__(self, file: Any, archive: zipfile.ZipFile, prefix: str):
        super().__init__(file)
        self._archive, self._prefix = archive, prefix
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return type(name, (_Script,), {"name": f"{module}.{name}"})
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch.jit._pickle" and name.startswith("build_"):
            return list
        if (module, name) == ("torch.jit._pickle", "restore_type_tag"):
            return lambda value, type_name: value
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, size = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"GLOBAL {kind}")
        if key not in self._storages:
            content = bytearray(self._archive.read(f"{self._prefix}data/{key}"))
            self._storages[key] = torch.frombuffer(content, dtype=dtype)[:size]
        return _Storage(self._storages[key])


def _rebuild_tensor(storage: _Storage, offset: int, size: tuple, stride: tuple, *_: Any) -> Tensor:
    return torch.as_strided(storage.data, size, stride, offset).clone(memory_format=torch.contiguous_format)
