"""Prompts of a trained federation in one safetensors file, and the words of CLIP's vocabulary that are nearest to them.

A tensor is named by its owner and its name in the method's state, such as ``server/context`` or ``client_003/context``.
Its last two dimensions are tokens and width; class-specific contexts, and pools of experts, have one more in front.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path

import torch
from rich.table import Table
from safetensors import SafetensorError, safe_open
from torch import Tensor

from promptfleet.clip.backbone import Backbone, load_backbone
from promptfleet.config import BackboneConfig, FederationConfig, build
from promptfleet.disks import disk_errors
from promptfleet.errors import DataError
from promptfleet.federation.reports import FederationResult
from promptfleet.federation.settings import local_path
from promptfleet.methods import load_method
from promptfleet.tensor_file import require_readable, write_tensors
from promptfleet.text_tables import render

_BACKBONE = "backbone"


@dataclass(frozen=True)
class Prompts:
    """Contexts by name, and what is known ``about`` them: method, dataset, seed, sweep, trial."""

    tensors: Mapping[str, Tensor]
    about: Mapping[str, str]

    def nearest_words(self, name: str, count: int = 3) -> list[list[tuple[str, float]]]:
        """Return for each vector of a context the nearest words of the vocabulary and their Euclidean distances.

        Vectors of contexts with more than two dimensions follow each other. Raises DataError: there is no such context.

        Source: Zhou et al., "Learning to Prompt for Vision-Language Models", 2022, section 3.4.
        """
        if name not in self.tensors:
            raise DataError(f"there is no prompt {name!r}; there are: {', '.join(self.tensors)}")
        table = self._backbone.tower.weights["token_embedding.weight"]
        known = self._backbone.known_words()
        vectors = self.tensors[name].to(table.dtype).flatten(0, -2)
        distances, places = torch.cdist(vectors, table[known]).topk(min(count, len(known)), largest=False)
        return [
            [(self._backbone.word(token), distance) for token, distance in zip(*row, strict=True)]
            for row in zip(known[places].tolist(), distances.tolist(), strict=True)
        ]

    def describe_words(self, name: str, count: int = 3) -> str:
        """Return a table with a row per vector of a context: the nearest words and their distances."""
        table = Table()
        for column in ("vector", *(f"word {rank}" for rank in range(1, count + 1))):
            table.add_column(column)
        for vector, words in enumerate(self.nearest_words(name, count), start=1):
            table.add_row(str(vector), *(f"{word} {distance:.3f}" for word, distance in words))
        return f"{name}: nearest words of the vocabulary, and their distances\n{render(table)}"

    @cached_property
    def _backbone(self) -> Backbone:
        settings = build(BackboneConfig, json.loads(self.about[_BACKBONE]), source="backbone of the prompts")
        return load_backbone(settings, int(self.about["seed"]))


def load_prompts(path: str | PathLike[str]) -> Prompts:
    """Read a file of prompts, such as ``prompts.safetensors`` in a sweep's folder.

    Raises:
        StorageError: it cannot be read.
        DataError: it is no such file.
    """
    file = Path(local_path(path, "path"))
    with disk_errors(doing="read"):
        require_readable(file)
    try:
        with safe_open(file, framework="pt") as opened:
            about = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (it is no mapping)
    except SafetensorError as error:
        raise DataError(f"{file}: damaged ({error})") from None
    if _BACKBONE not in about:
        raise DataError(f"{file}: is no file of prompts, since it does not name a backbone")
    return Prompts(tensors, about)


def write_prompts(path: Path, result: FederationResult, config: FederationConfig, about: Mapping[str, str]) -> None:
    """Write the contexts of a federation's server and of each client that trained; without any, delete the file.

    Raises StorageError.
    """
    trained = {client for report in result.rounds for client in report.cohort if client not in report.dropped}
    privates = {f"client_{client:03d}": one for client, one in result.privates.items() if client in trained}
    names = load_method(config.method).context_names
    contexts = {
        f"{owner}/{name}": tensor.detach().cpu().contiguous().clone()
        for owner, state in {"server": result.server, **privates}.items()
        for name, tensor in state.items()
        if name.rpartition(".")[2] in names
    }
    known = {"method": config.method, "dataset": config.dataset, "seed": str(config.seed)}
    known |= {_BACKBONE: json.dumps(config.to_dict()[_BACKBONE]), "state_sha256": result.state_sha256}
    with disk_errors():
        path.unlink(missing_ok=True)
        if contexts:
            write_tensors(path, contexts, {**known, **about})
