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
from promptfleet.methods.pfedmoap import PFedMoAPConfig
from promptfleet.methods.protocol import World

ROOT = Path(os.environ.get("PROMPTFLEET_PARITY", Path(__file__).parents[2] / "shared" / "parity"))
GATE_NAMES = {"query": "W_q", "key": "W_k", "value": "W_v", "output": "W_o"}


@dataclass(frozen=True)
class Golden:
    """One folder: its tensors, its metadata, its CLIP in float32."""

    tensors: dict[str, Tensor]
    meta: dict[str, str]
    model: torch.nn.Module

    def gate(self, prefix: str, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """A gate by our names, such as ``query.weight``."""
        return {
            f"{ours}.{kind}": self.tensors[f"{prefix}.{theirs}.{kind}"].to(device)
            for ours, theirs in GATE_NAMES.items()
            for kind in ("weight", "bias")
        }

    def world(self, **config) -> World:
        names = tuple(json.loads(self.meta["classnames"]))
        tower = text_tower_of(self.model)
        tokens = open_clip.tokenize(class_texts(names))
        clip = FrozenClip(
            tower=tower,
            classes=embed_classes(tower, tokens),
            zero_shot_text=torch.zeros(len(names), tower.dim),
            logit_scale=float(self.model.logit_scale.detach().exp()),
        )
        common = {
            "prompt_length": int(self.meta["n_ctx"]),
            "experts": int(self.meta["num_experts"]) - 1,
            "gating_temperature": 1 / float(self.meta["scaling"]),
            "gate_width": int(self.meta["gating_dim"]),
            "gate_heads": int(self.meta["gating_heads"]),
            "lambda": float(self.meta["lambda"]),
        }
        return World(PFedMoAPConfig.model_validate({**common, **config}), clip, names)

    @torch.no_grad()
    def image_features(self, images: Tensor) -> Tensor:
        return self.model.encode_image(images, normalize=True)


def load_golden(name: str) -> Golden:
    folder = ROOT / name
    if not folder.is_dir():
        pytest.skip(f"no golden values at {folder}; set PROMPTFLEET_PARITY to the folder that holds them")
    weights = {key: tensor.float() for key, tensor in load_file(folder / "clip_openai_tiny.safetensors").items()}
    model = open_clip.model.build_model_from_openai_state_dict(weights, cast_dtype=torch.float32).float().eval()
    path = folder / f"{name}.safetensors"
    with safe_open(path, "pt") as file:
        return Golden(load_file(path), file.metadata(), model)


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())
