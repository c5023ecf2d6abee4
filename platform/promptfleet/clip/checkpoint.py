"""Reading files of weights without executing anything that lies in them, and loading them strictly."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from promptfleet.clip.torchscript import is_torchscript, read_torchscript
from promptfleet.errors import BackboneError

OPENAI_SCALARS = ("input_resolution", "context_length", "vocab_size")  # beside the weights in OpenAI's files only
_MASK = "attn_mask"  # of the text tower, kept by TorchScript; a model makes its own
_BATCH_COUNT = ".num_batches_tracked"  # counts training steps; some files leave it out
_TEXT_PARTS = ("positional_embedding", "text_projection", "token_embedding.", "transformer.", "ln_final.")


@dataclass(frozen=True)
class Weights:
    """Tensors by CLIP's names; ``is_openai`` where the file is in OpenAI's own format."""

    path: Path
    tensors: Mapping[str, Tensor]
    is_openai: bool


def read_weights(path: str | Path) -> Weights:
    """Read .safetensors, or what ``torch.save`` or ``torch.jit.save`` wrote: tensors are read, code is never run.

    A training checkpoint's ``state_dict`` is taken, and the ``module.`` of a wrapped model left off.

    Raises:
        BackboneError: no such file, not a file of weights, something in it that is no tensor, NaN or Inf.
    """
    path = Path(path)
    if not path.is_file():
        raise BackboneError(f"backbone.checkpoint={path}: there is no such file")
    is_archive = is_torchscript(path)
    try:
        content = _content(path, is_archive)
    except (SafetensorError, pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, ValueError, EOFError) as error:
        raise BackboneError(f"{path}: {_reason(error)}") from None
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise BackboneError(f"{path}: holds a {type(content).__name__}, should be a state dict: tensors by name")
    if all(str(key).startswith("module.") for key in content):
        content = {key.removeprefix("module."): value for key, value in content.items()}
    is_openai = is_archive or any(key in content for key in OPENAI_SCALARS)
    no_weights = (*OPENAI_SCALARS, _MASK)
    tensors = {str(key): value for key, value in content.items() if key not in no_weights}
    _check_tensors(path, tensors)
    return Weights(path, tensors, is_openai)


def load_weights(model: nn.Module, weights: Weights, name: str) -> None:
    """Copy ``weights`` into ``model``; ``name`` is that of its architecture.

    Raises:
        BackboneError: the file and the first key that is missing, too many or of another shape.
    """
    wanted = model.state_dict()
    found = _as_named_by(wanted, weights.tensors)
    missing = [key for key in wanted if key not in found and not key.endswith(_BATCH_COUNT)]
    extra = [key for key in found if key not in wanted]
    if missing or extra:
        both = ((missing, "missing"), (extra, "too many"))
        counts = "; ".join(f"{len(keys)} {what}, first {keys[0]!r}" for keys, what in both if keys)
        raise BackboneError(f"{weights.path}: not the weights of {name}: keys {counts}{_hint(extra)}")
    for key, tensor in found.items():
        if tensor.shape != wanted[key].shape:
            shapes = f"{list(tensor.shape)}, {name} has {list(wanted[key].shape)}"
            raise BackboneError(f"{weights.path}: {key!r} is {shapes}")
    model.load_state_dict({**wanted, **found})


def _content(path: Path, is_archive: bool) -> Any:
    if is_archive:
        return read_torchscript(path)
    if path.suffix == ".safetensors":
        return load_file(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pickle protocols
        return torch.load(path, map_location="cpu", weights_only=True)


def _as_named_by(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """open_clip keeps a text tower at the top or under ``text.``, and scalars with or without a dimension."""
    inside = "text.positional_embedding" in wanted
    found = {}
    for key, tensor in tensors.items():
        if inside and key.startswith(_TEXT_PARTS):
            key = f"text.{key}"
        elif not inside and key.startswith(tuple(f"text.{part}" for part in _TEXT_PARTS)):
            key = key.removeprefix("text.")
        is_scalar = key.startswith("logit_") and key in wanted and tensor.numel() == wanted[key].numel()
        found[key] = tensor.reshape(wanted[key].shape) if is_scalar else tensor
    return found


def _check_tensors(path: Path, tensors: Mapping[str, Any]) -> None:
    for key, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise BackboneError(f"{path}: {key!r} is a {type(tensor).__name__}, should be a tensor")
        if not tensor.isfinite().all():
            raise BackboneError(f"{path}: {key!r} has NaN or Inf; the file is damaged")


def _hint(extra: list[str]) -> str:
    if not any(key.startswith(("text_model.", "vision_model.")) for key in extra):
        return ""
    return ". These are names of Hugging Face's transformers: take the same model's open_clip file"


def _reason(error: Exception) -> str:
    foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
    if foreign:
        return f"refers to {foreign[1]}: only tensors are loaded, never code; save the state dict alone"
    if isinstance(error, pickle.UnpicklingError) or not str(error):
        return "not a file of weights"
    return f"damaged, or not a file of weights ({str(error).splitlines()[0].split('. ')[0]})"
