"""Golden values of the published pFedMoAP implementation, and our own objects set up for them."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from promptfleet.clip.frozen import FrozenClip
from promptfleet.clip.text_tower import text_tower_of
from promptfleet.clip.tokens import class_texts, embed_classes
from promptfleet.config import FederationConfig
from promptfleet.methods.pfedmoap import PFedMoAPConfig
from promptfleet.methods.protocol import World
from tests.golden.pack import IDS, ROWS, TABLE

ROOT = Path(os.environ.get("PROMPTFLEET_PARITY", Path(__file__).parent / "golden"))
GATE_NAMES = {"query": "W_q", "key": "W_k", "value": "W_v", "output": "W_o"}


@dataclass(frozen=True)
class Golden:
    """One folder: its tensors, its metadata, its CLIP in float32."""

    tensors: dict[str, Tensor]
    meta: dict[str, str]
    model: torch.nn.Module

    def gate(self, prefix: str, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """A gate by our names, such as ``gate.query.weight``."""
        return {
            f"gate.{ours}.{kind}": self.tensors[f"{prefix}.{theirs}.{kind}"].to(device)
            for ours, theirs in GATE_NAMES.items()
            for kind in ("weight", "bias")
        }

    def pfedmoap_world(self, **config) -> World:
        """The world of a pFedMoAP federation with the settings of the metadata; ``config`` adds to them."""
        common = {
            "prompt_length": int(self.meta["n_ctx"]),
            "experts": int(self.meta["num_experts"]) - 1,
            "gating_temperature": 1 / float(self.meta["scaling"]),
            "gate_width": int(self.meta["gating_dim"]),
            "gate_heads": int(self.meta["gating_heads"]),
            "lambda": float(self.meta["lambda"]),
        }
        return self.world(PFedMoAPConfig.model_validate({**common, **config}))

    def world(self, config: FederationConfig, zero_shot_text: Tensor | None = None) -> World:
        """The classes of the metadata under this CLIP; zero-shot text features are zeros unless they are given."""
        names = tuple(json.loads(self.meta["classnames"]))
        tower = text_tower_of(self.model)
        clip = FrozenClip(
            tower=tower,
            classes=embed_classes(tower, open_clip.tokenize(class_texts(names))),
            zero_shot_text=torch.zeros(len(names), tower.dim) if zero_shot_text is None else zero_shot_text,
            logit_scale=float(self.model.logit_scale.detach().exp()),
        )
        return World(config, clip, names)

    @torch.no_grad()
    def image_features(self, images: Tensor) -> Tensor:
        return self.model.encode_image(images, normalize=True)


def load_golden(folder: str, name: str | None = None) -> Golden:
    """The values ``name`` (default: called as the folder is), with the CLIP that their metadata or the folder names."""
    path = ROOT / folder / f"{name or folder}.safetensors"
    if not path.is_file():
        pytest.skip(f"no golden values at {path}; PROMPTFLEET_PARITY names a folder without them")
    with safe_open(path, "pt") as file:
        meta = file.metadata()
    weights = load_clip_weights(path.with_name(f"{meta.get('clip', 'clip_openai_tiny')}.safetensors"))
    model = open_clip.model.build_model_from_openai_state_dict(weights, cast_dtype=torch.float32).float().eval()
    return Golden(load_file(path), meta, model)


def load_clip_weights(path: Path) -> dict[str, Tensor]:
    """A state dict in OpenAI's format, floats as float32; a packed token table is rebuilt, see ``golden/pack.py``."""
    weights = load_file(path)
    if ROWS in weights:
        with safe_open(path, "pt") as file:
            vocabulary = int(file.metadata()["vocabulary"])
        rows, ids = weights.pop(ROWS), weights.pop(IDS)
        table = torch.zeros(vocabulary, rows.shape[1], dtype=rows.dtype)
        table[ids.long()] = rows
        weights[TABLE] = table
    return {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in weights.items()}


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())
