"""Reader of the archives that ``torch.save`` and ``torch.jit.save`` write, with a closed unpickler.

``torch.jit.load`` compiles an archive's code and runs its ``__setstate__``; ``torch.load`` believes the sizes that a
pickle names. Here only data is read, and sizes are held against the file's before memory is taken.
"""

import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from promptfleet.pickle_outline import check_pickle

CODE = 2**26  # bytes that an archive may unpack to beyond its own size; of all its files only code is compressed
_DTYPES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}
_UNUSABLE = {  # names of what rebuilds a tensor, and what such a tensor is
    "_rebuild_qtensor": "quantized",
    "_rebuild_sparse_tensor": "sparse",
    "_rebuild_nested_tensor": "nested",
    "_rebuild_tensor_v3": "float8 or other unusual",
    "_rebuild_meta_tensor_no_storage": "meta",
}
_CLASS = re.compile(r"^class (\w+)\(Module\):\n((?:  __.*\n)*)", re.MULTILINE)
_DECLARED = re.compile(r"__(?:parameters|buffers)__ = \[(.*?)\]")


class _Script:
    """Replacement for an instance of a class of the archive: its attributes, none of its code."""

    name: str


class _Storage(NamedTuple):
    data: Tensor


class _Function(NamedTuple):
    """Replacement for a function that a pickle names. A tuple, so the pickle cannot set attributes on it."""

    build: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        return self.build(*arguments)


def read_archive(path: Path) -> tuple[Any, bool]:
    """Read the content of the archive; also return True if it is of TorchScript.

    For ``torch.save`` the content is the saved value, with views of its storages as tensors; for TorchScript,
    parameters and buffers by the names that ``state_dict`` of the archived module gives them.

    Raises:
        pickle.UnpicklingError: it refers to anything but tensors, plain values and its own classes.
        Exception: it is damaged, which can show in any part of any reader.
    """
    with zipfile.ZipFile(path) as archive:
        _check_sizes(archive, path.stat().st_size)
        names = archive.namelist()
        data = [name for name in names if name.endswith("/data.pkl")]
        if len(data) != 1:
            raise pickle.UnpicklingError("no file of weights")
        prefix = data[0].removesuffix("data.pkl")
        is_script = f"{prefix}constants.pkl" in names
        if f"{prefix}byteorder" in names and archive.read(f"{prefix}byteorder") != b"little":
            raise ValueError("its numbers are big-endian")
        with archive.open(data[0]) as file:
            check_pickle(file, archive.getinfo(data[0]).file_size)
        with archive.open(data[0]) as file:
            root = _Unpickler(file, archive, prefix).load()
        if not is_script:
            return root, False
        if not isinstance(root, _Script):
            raise pickle.UnpicklingError("no module")
        return dict(_state(root, _declared(archive, f"{prefix}code/"), "")), True


def _check_sizes(archive: zipfile.ZipFile, size: int) -> None:
    files = archive.infolist()
    if len({file.filename for file in files}) != len(files):
        raise ValueError("two of its files have one name")
    if any(file.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for file in files):
        raise ValueError("compressed in another way than torch does")
    if sum(file.file_size for file in files) > size + CODE:
        raise ValueError("its files are larger than it")


def _declared(archive: zipfile.ZipFile, folder: str) -> dict[str, set[str]]:
    """Return the names of the parameters and buffers of each class in the archive's code."""
    declared = {}
    for name in archive.namelist():
        if name.startswith(folder) and name.endswith(".py"):
            module = name.removeprefix(folder).removesuffix(".py").replace("/", ".")
            for found in _CLASS.finditer(archive.read(name).decode()):
                lines = _DECLARED.findall(found[2])
                declared[f"{module}.{found[1]}"] = {name for line in lines for name in re.findall(r'"(\w+)"', line)}
    return declared


def _state(module: _Script, declared: dict[str, set[str]], prefix: str) -> Iterator[tuple[str, Tensor]]:
    own = declared.get(type(module).name, set())
    for name, value in vars(module).items():
        if isinstance(value, _Script):
            yield from _state(value, declared, f"{prefix}{name}.")
        elif isinstance(value, Tensor) and name in own:
            yield f"{prefix}{name}", value


class _Unpickler(pickle.Unpickler):
    """Unpickler of tensors, plain values and the archive's own classes (as ``_Script``); it refuses other names."""

    def __init__(self, file: Any, archive: zipfile.ZipFile, prefix: str):
        super().__init__(file)
        self._archive, self._prefix = archive, prefix
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return type(name, (_Script,), {"name": f"{module}.{name}"})
        if module in ("torch", "torch.storage") and name in _DTYPES:
            return _DTYPES[name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if module == "torch.jit._pickle" and name.startswith("build_"):
            return list
        if module == "torch._utils" and name in _UNUSABLE:
            raise pickle.UnpicklingError(
                f"holds {_UNUSABLE[name]} tensors; save plain float32, float16 or bfloat16 ones"
            )
        try:
            return _NAMES[f"{module}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name}") from None

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str):
            raise pickle.UnpicklingError(f"GLOBAL {kind}")
        if key not in self._storages:
            self._storages[key] = self._read(f"{self._prefix}data/{key}", dtype)
        data = self._storages[key].view(dtype)
        if len(data) != count:
            raise ValueError(f"storage {key} has {len(data)} numbers, should have {count}")
        return _Storage(data)

    def _read(self, name: str, dtype: torch.dtype) -> Tensor:
        content = bytearray(self._archive.getinfo(name).file_size)
        with self._archive.open(name) as file:
            if file.readinto(content) != len(content):
                raise ValueError(f"{name} is cut short")
        return torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)


def _rebuild_tensor(storage: _Storage, offset: int, size: tuple, stride: tuple, *_: Any) -> Tensor:
    if prod(size) > len(storage.data):
        raise ValueError(f"a tensor of {prod(size)} numbers in a storage of {len(storage.data)}")
    return torch.as_strided(storage.data, size, stride, offset)


def _to_bytes(text: str, encoding: str) -> bytes:
    return text.encode("latin1")


_NAMES = {
    "torch._utils._rebuild_tensor": _Function(_rebuild_tensor),
    "torch._utils._rebuild_tensor_v2": _Function(_rebuild_tensor),
    "torch._utils._rebuild_parameter": _Function(lambda tensor, *_: tensor),
    "torch._utils._rebuild_parameter_with_state": _Function(lambda tensor, *_: tensor),
    "torch.jit._pickle.restore_type_tag": _Function(lambda value, _: value),
    "torch.Size": _Function(tuple),
    "torch.device": _Function(lambda *named: named),
    "collections.OrderedDict": OrderedDict,
    "builtins.set": _Function(set),
    "__builtin__.set": _Function(set),
    "_codecs.encode": _Function(_to_bytes),
}
