"""CLIP's text side of a dataset's classes and of further texts, computed once per content and kept on disk.

A stored file is used only if its key, names, shapes, types and checksum are right; else they are computed again.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from promptfleet.clip.backbone import Backbone
from promptfleet.clip.plain_encoder import encode_texts
from promptfleet.clip.prompt_layout import ClassTokens
from promptfleet.clip.text_tower import TextTower
from promptfleet.clip.tokens import embed_classes
from promptfleet.config import StorageConfig
from promptfleet.data.dataset import Dataset
from promptfleet.disks import disk_errors
from promptfleet.errors import first_line
from promptfleet.features.class_prompts import tokenize_classes, tokenize_texts
from promptfleet.methods.parts.states import find_non_finite, state_sha256
from promptfleet.methods.protocol import State
from promptfleet.storage.remote import bring_file, fetch_missing
from promptfleet.tensor_file import require_readable, write_tensors

VERSION = 2
Layout = Mapping[str, tuple[tuple[int | None, ...], torch.dtype]]

logger = logging.getLogger(__name__)


def text_features(backbone: Backbone, dataset: Dataset, storage: StorageConfig, folder: Path | None) -> State:
    """Return embedded class tokens and zero-shot text features, from ``folder`` if they were computed before.

    Without a folder nothing is computed or written that takes time, and zero-shot features are 0: for checks.
    ``start [width]``, ``suffix [classes, tokens, width]`` and ``lengths [classes]`` as in ``ClassTokens``;
    ``zero_shot_text [classes, dim]`` of unit norm. Raises StorageError: the disk refuses.
    """
    key = json.dumps([VERSION, backbone.fingerprint, dataset.class_names, dataset.templates])
    classes, dim = len(dataset.class_names), backbone.tower.dim
    if folder is None:
        return {**_embedded(backbone, tokenize_classes(backbone, dataset)), "zero_shot_text": torch.zeros(classes, dim)}
    layout = {**_tokens_layout(backbone.tower, classes), "zero_shot_text": ((classes, dim), torch.float32)}
    return _computed_once(key, layout, lambda: _compute(backbone, dataset), storage, folder)


def embedded_texts(
    backbone: Backbone, texts: Sequence[str], storage: StorageConfig, folder: Path | None
) -> ClassTokens:
    """Return the embedded tokens of ``texts``, at least one, as ``text_features`` does.

    Raises:
        ConfigError: a text has more tokens than the text tower has positions, or none.
        StorageError: the disk refuses.
    """
    key = json.dumps([VERSION, backbone.fingerprint, "texts", list(texts)])
    layout = _tokens_layout(backbone.tower, len(texts))
    tensors = _computed_once(key, layout, lambda: _embedded(backbone, tokenize_texts(backbone, texts)), storage, folder)
    return ClassTokens(tensors["start"], tensors["suffix"], tensors["lengths"])


def _computed_once(
    key: str, layout: Layout, compute: Callable[[], State], storage: StorageConfig, folder: Path | None
) -> State:
    if folder is None:
        return compute()
    path = folder / f"text-{hashlib.sha256(key.encode()).hexdigest()[:16]}.safetensors"
    fetch_missing(storage, path)
    was_there = path.exists()
    if was_there:
        try:
            return _read(path, key, layout)
        except Exception as error:  # a damaged file can fail in any part of its reader
            logger.warning("%s: damaged (%s); computing it again", path, first_line(error))
    tensors = compute()
    with disk_errors(path):
        write_tensors(path, tensors, {"key": key, "sha256": state_sha256(tensors, {})})
    if was_there:
        bring_file(storage, path)  # the address may have the damaged one, under the same name and of the same size
    return tensors


def _read(path: Path, key: str, layout: Layout) -> State:
    """Return the stored tensors. Raises ValueError if they are not those of ``key``, and safetensors' own errors."""
    require_readable(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    if metadata.get("key") != key:
        raise ValueError("made for other inputs")
    if metadata.get("sha256") != state_sha256(tensors, {}):
        raise ValueError("its content does not match its checksum")
    tokens = tensors["suffix"].shape[1]
    wanted = {name: (tuple(size or tokens for size in shape), dtype) for name, (shape, dtype) in layout.items()}
    if {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()} != wanted:
        raise ValueError("its tensors have other names, shapes or types")
    if find_non_finite(tensors) is not None:
        raise ValueError("it has a NaN or Inf")
    if not all(0 < length <= tokens for length in tensors["lengths"].tolist()):
        raise ValueError("its lengths are none of texts")
    return tensors


def _tokens_layout(tower: TextTower, texts: int) -> Layout:
    """Return shape and type of each tensor of ``_embedded``; None is the number of tokens of the longest text."""
    return {
        "start": ((tower.width,), torch.float32),
        "suffix": ((texts, None, tower.width), torch.float32),
        "lengths": ((texts,), torch.int64),
    }


def _compute(backbone: Backbone, dataset: Dataset) -> State:
    tokens = _embedded(backbone, tokenize_classes(backbone, dataset))
    return {**tokens, "zero_shot_text": _zero_shot_text(backbone, dataset)}


def _embedded(backbone: Backbone, token_ids: Tensor) -> State:
    tokens = embed_classes(backbone.tower, token_ids)
    return {"start": tokens.start, "suffix": tokens.suffix.contiguous(), "lengths": tokens.lengths}


@torch.no_grad()
def _zero_shot_text(backbone: Backbone, dataset: Dataset) -> Tensor:
    """Return the mean over templates of the unit-norm text features, normalized again: ``[classes, dim]``."""
    per_template = [
        encode_texts(backbone.tower, tokenize_classes(backbone, dataset, template)) for template in dataset.templates
    ]
    return F.normalize(torch.stack(per_template).mean(dim=0), dim=-1)
