"""Conversion of class names to the embedded tokens that follow a learnable context."""

import hashlib
import json
from collections.abc import Sequence

import torch
from torch import Tensor

from promptfleet.clip.prompt_layout import ClassTokens
from promptfleet.clip.text_tower import TextTower


def class_texts(class_names: Sequence[str], template: str = "{}.") -> list[str]:
    """Fill ``template`` with each name; underscores become spaces, as in the published prompts."""
    return [template.format(name.replace("_", " ")) for name in class_names]


def texts_key(texts: Sequence[str]) -> str:
    """Return a short name of a list of texts, which depends on the texts and their order alone."""
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()[:16]


def embed_classes(tower: TextTower, token_ids: Tensor) -> ClassTokens:
    """Split tokenized ``"name."`` texts ``[classes, positions]`` into SOS and the tokens that follow the context.

    A text's ids do not depend on the text before it, so the context can be put between SOS and the name.
    """
    end = token_ids.argmax(dim=-1)
    table = tower.weights["token_embedding.weight"]
    return ClassTokens(
        start=table[token_ids[0, 0]].clone(),
        suffix=table[token_ids[:, 1 : int(end.max()) + 1]],
        lengths=end,
    )


def equal_classes(classes: ClassTokens) -> list[list[int]]:
    """Return the groups of two or more classes whose embedded tokens are equal, each in ascending order."""
    groups: dict[bytes, list[int]] = {}
    for label, length in enumerate(classes.lengths.tolist()):
        tokens = classes.suffix[label, :length].contiguous().view(torch.uint8).numpy()
        groups.setdefault(hashlib.sha256(tokens.data).digest(), []).append(label)
    return [labels for labels in groups.values() if len(labels) > 1]
