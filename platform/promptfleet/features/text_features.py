"""CLIP's text features of a dataset's classes, computed once per content and kept on disk.

A stored file is used only if its key, names, shapes, types and checksum are right; else they are computed again.
"""

import hashlib
import json
import logging
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from promptfleet.clip.backbone import Backbone
from promptfleet.clip.plain_encoder import encode_texts
from promptfleet.clip.text_tower import TextTower
from promptfleet.clip.tokens import embed_classes
from promptfleet.config import StorageConfig
from promptfleet.data.dataset import Dataset
from promptfleet.disks import disk_errors
from promptfleet.errors import first_line
from promptfleet.features.class_prompts import tokenize_classes
from promptfleet.methods.parts.states import find_non_finite, state_sha256
from promptfleet.methods.protocol import State
from promptfleet.storage.remote import bring_file, fetch_missing
from promptfleet.tensor_file import require_readable, write_tensors

VERSION = 2

logger = logging.getLogger(__name__)


def text_features(backbone: Backbone, dataset: Dataset, storage: StorageConfig, folder: Path) -> State:
    """Return embedded class tokens and zero-shot text features, from ``folder`` if they were computed before.

    ``start [width]``, ``suffix [classes, tokens, width]`` and ``lengths [classes]`` as in ``ClassTokens``;
    ``zero_shot_text [classes, dim]`` of unit norm. Raises StorageError: the disk refuses.
    """
    key = json.dumps([VERSION, backbone.fingerprint, dataset.class_names, dataset.templates])
    path = folder / f"text-{hashlib.sha256(key.encode()).hexdigest()[:16]}.safetensors"
    fetch_missing(storage, path)
    was_there = path.exists()
    if was_there:
        try:
            return _read(path, key, backbone.tower, len(dataset.class_names))
        except Exception as error:  # a damaged file can fail in any part of its reader
            logger.warning("%s: damaged (%s); computing it again", path, first_line(error))
    tensors = _compute(backbone, dataset)
    with disk_errors(path):
        write_tensors(path, tensors, {"key": key, "sha256": state_sha256(tensors, {})})
    if was_there:
        bring_file(storage, path)  # the address may have the damaged one, under the same name and of the same size
    return tensors


def _read(path: Path, key: str, tower: TextTower, classes: int) -> State:
    """Return the stored tensors. Raises ValueError if they are not those of ``key``, and safetensors' own errors."""
    require_readable(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    if metadata.get("key") != key:
        raise ValueError("made for other inputs")
    if metadata.get("sha256") != state_sha256(tensors, {}):
        raise ValueError("its content does not match its checksum")
    width, dim = tower.weights["text_projection"].shape
    tokens = tensors["suffix"].shape[1]
    layout = {
        "start": ((width,), torch.float32),
        "suffix": ((classes, tokens, width), torch.float32),
        "lengths": ((classes,), torch.int64),
        "zero_shot_text": ((classes, dim), torch.float32),
    }
    if {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()} != layout:
        raise ValueError("its tensors have other names, shapes or types")
    if find_non_finite(tensors) is not None:
        raise ValueError("it has a NaN or Inf")
    if not all(0 < length <= tokens for length in tensors["lengths"].tolist()):
        raise ValueError("its lengths are none of texts")
    return tensors


def _compute(backbone: Backbone, dataset: Dataset) -> State:
    classes = embed_classes(backbone.tower, tokenize_classes(backbone, dataset))
    return {
        "start": classes.start,
        "suffix": classes.suffix.contiguous(),
        "lengths": classes.lengths,
        "zero_shot_text": _zero_shot_text(backbone, dataset),
    }


@torch.no_grad()
def _zero_shot_text(backbone: Backbone, dataset: Dataset) -> Tensor:
    """Return the mean over templates of the unit-norm text features, normalized again: ``[classes, dim]``."""
    per_template = [
        encode_texts(backbone.tower, tokenize_classes(backbone, dataset, template)) for template in dataset.templates
    ]
    return F.normalize(torch.stack(per_template).mean(dim=0), dim=-1)
