"""Inputs in the shape of the paper's CIFAR-100 federation: random image features and a random text tower."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from gpu_parts.part import Setting
from gpu_parts.towers import random_classes, random_tower
from promptfleet.clip.frozen import FrozenClip
from promptfleet.config import FederationConfig
from promptfleet.data.feature_store import write_features
from promptfleet.federation.prepare import Prepared
from promptfleet.federation.settings import federation_config
from promptfleet.yaml_files import read_yaml

PAPER = Path(__file__).resolve().parents[2] / "configs" / "paper" / "cifar100.yaml"
IMAGES = {"train": 50_000, "test": 10_000}
CLASSES, SMALL_CLASSES = 100, 10
SPREAD = 1.0  # of an image's feature around its class's text feature, in units of that feature's norm
LOGIT_SCALE = 100.0


def make_inputs(folder: Path, setting: Setting) -> Prepared:
    """Features near their class's zero-shot text feature, so that training has something to find."""
    cpu, classes = torch.device("cpu"), SMALL_CLASSES if setting.small else CLASSES
    tower = random_tower("tiny" if setting.small else "ViT-B-16", cpu)
    drawn = torch.Generator().manual_seed(2)
    text = F.normalize(torch.randn(classes, tower.dim, generator=drawn), dim=-1)
    counts = [count // 100 if setting.small else count for count in IMAGES.values()]
    labels = torch.arange(sum(counts)) % classes
    noise = torch.randn(len(labels), tower.dim, generator=drawn) * SPREAD * tower.dim**-0.5
    features = F.normalize(text[labels] + noise, dim=-1).numpy()
    official = np.repeat([0, 1], counts)
    key = {"features": f"random, {len(labels)} of {classes} classes"}
    path = write_features(folder, key, features, labels.numpy(), official=official)
    clip = FrozenClip(tower, random_classes(tower, classes, cpu), text, LOGIT_SCALE)
    return Prepared(clip, path, tuple(f"class {label}" for label in range(classes)))


def paper_config(setting: Setting, **more: object) -> FederationConfig:
    """The paper's settings of CIFAR-100; where ``setting`` is small, ten clients and short prompts."""
    values = read_yaml(PAPER)
    if setting.small:
        values |= {"clients": 10, "participation": 0.4, "local_epochs": 1, "prompt_length": 4, "experts": 2}
        values |= {"gate_width": 32, "gate_heads": 4, "rounds": 3}
    return federation_config(values | more, source=PAPER.name)
