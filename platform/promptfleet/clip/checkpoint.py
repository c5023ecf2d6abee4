"""Files of weights: read without executing their content, and loaded strictly."""

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from promptfleet.clip.weight_files import read_file
from promptfleet.errors import BackboneError, first_line
from promptfleet.pickle_outline import DEEPEST

OPENAI_SCALARS = ("input_resolution", "context_length", "vocab_size")  # extra entries in OpenAI's files only
_MASK = "attn_mask"  # of the text tower, kept by TorchScript; a model makes its own
_BATCH_COUNT = ".num_batches_tracked"  # counts training steps; some files leave it out
_INSIDE = ("state_dict", "model_state_dict", "model")  # of a training checkpoint
_ANCHOR = "logit_scale"  # every CLIP has it once, at the top: what is before it in a name is a wrapper's prefix
_USUAL = {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64} | {
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64)
}
_TEXT_PARTS = ("positional_embedding", "text_projection", "token_embedding.", "transformer.", "ln_final.")


@dataclass(frozen=True)
class Weights:
    """Tensors by CLIP's names; ``is_openai`` where the file is in OpenAI's own format."""

    path: Path
    tensors: Mapping[str, Tensor]
    is_openai: bool


def read_weights(path: str | Path) -> Weights:
    """Read a file of safetensors, ``torch.save`` or ``torch.jit.save``; its name does not matter.

    Tensors are read, code is never run. A training checkpoint's weights are taken (``state_dict``, ``model``), and the
    prefixes of a wrapped model left off (``module.``, ``_orig_mod.``, Lightning's ``model.``).

    Raises:
        BackboneError: no such file, not a file of weights, something in it that is no plain tensor, NaN or Inf.
    """
    path = Path(path)
    if not path.is_file():
        raise BackboneError(f"backbone.checkpoint={path}: there is no such file")
    try:
        content, is_archive = read_file(path)
    except OSError as error:
        raise BackboneError(f"{path}: cannot be read ({error.strerror or first_line(error)})") from None
    except Exception as error:  # a damaged file can fail in any part of any reader
        raise BackboneError(f"{path}: {_reason(error)}") from None
    content = _unwrapped(content)
    if not isinstance(content, Mapping) or not content:
        raise BackboneError(f"{path}: holds a {type(content).__name__}, should be a state dict: tensors by name")
    is_openai = is_archive or any(key in content for key in OPENAI_SCALARS)
    no_weights = (*OPENAI_SCALARS, _MASK)
    tensors = {str(key): value for key, value in content.items() if key not in no_weights}
    _check_tensors(path, tensors)
    return Weights(path, tensors, is_openai)


def _unwrapped(content: Any) -> Any:
    """Return the state dict in a training checkpoint, by the model's own names, without a wrapper's own tensors."""
    for _ in range(DEEPEST):
        found = [
            content[key] for key in _INSIDE if isinstance(content, Mapping) and isinstance(content.get(key), Mapping)
        ]
        if not found:
            break
        content = found[0]
    if not isinstance(content, Mapping):
        return content
    ends = [key for key in content if isinstance(key, str) and f".{key}".endswith(f".{_ANCHOR}")]
    prefix = ends[0].removesuffix(_ANCHOR) if len(ends) == 1 else ""
    if not prefix:
        return content
    return {key.removeprefix(prefix): value for key, value in content.items() if str(key).startswith(prefix)}


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


def _as_named_by(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return ``tensors`` by the names in ``wanted``.

    open_clip keeps a text tower at the top or under ``text.``, and scalars with or without a dimension.
    """
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
        if type(tensor) not in (Tensor, nn.Parameter):
            raise BackboneError(f"{path}: {key!r} is a {type(tensor).__name__}, should be a tensor")
        unusual = _unusual(tensor)
        if unusual:
            raise BackboneError(f"{path}: {key!r} is {unusual}, should be plain float32, float16 or bfloat16")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise BackboneError(f"{path}: {key!r} is {list(tensor.shape)}, more than is stored of it")
        if not tensor.isfinite().all():
            raise BackboneError(f"{path}: {key!r} has NaN or Inf; the file is damaged")


def _unusual(tensor: Tensor) -> str:
    """Return the reason why a tensor cannot be weights; an empty text for plain numbers."""
    if tensor.is_quantized or tensor.is_nested or tensor.is_sparse or tensor.is_meta:
        kinds = {"quantized": tensor.is_quantized, "nested": tensor.is_nested, "sparse": tensor.is_sparse}
        return next((kind for kind, is_one in kinds.items() if is_one), "meta, without numbers")
    if tensor.layout is not torch.strided:
        return str(tensor.layout).removeprefix("torch.")
    return "" if tensor.dtype in _USUAL else str(tensor.dtype).removeprefix("torch.")


def _hint(extra: list[str]) -> str:
    if not any(key.startswith(("text_model.", "vision_model.")) for key in extra):
        return ""
    return ". These are names of Hugging Face's transformers: take the same model's open_clip file"


def _reason(error: Exception) -> str:
    foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
    if foreign:
        return f"refers to {foreign[1]}: only tensors are loaded, never code; save the state dict alone"
    if isinstance(error, pickle.UnpicklingError):
        return str(error) if str(error).startswith("holds ") else "not a file of weights"
    return f"damaged, or not a file of weights ({first_line(error).split('. ')[0]})"
