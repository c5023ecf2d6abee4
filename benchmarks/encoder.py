"""The prefix-shared prompt encoder against the simple one of 77 tokens: python benchmarks/encoder.py

Forward and backward to the context, random weights, ImageNet's first class names. Without --classes and --context every
combination is measured.
"""

import argparse
from collections.abc import Callable
from typing import Any

import open_clip
import torch
from torch import Tensor

from measuring import measure, report
from promptfleet.clip.backbone import GLYPH_CLIP, load_backbone
from promptfleet.clip.plain_encoder import encode_prompts_plainly
from promptfleet.clip.prompt_encoder import encode_prompts
from promptfleet.clip.text_tower import TextTower, text_tower_of
from promptfleet.clip.tokens import class_texts, embed_classes
from promptfleet.config import BackboneConfig

CLASSES, CONTEXTS = (2, 10, 100, 397), (4, 16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", nargs="+", default=[GLYPH_CLIP, "ViT-B-16"], help="open_clip's names")
    parser.add_argument("--classes", type=int, nargs="+", default=CLASSES)
    parser.add_argument("--context", type=int, nargs="+", default=CONTEXTS, help="learnable tokens")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    rows = [
        {"backbone": name, **compare(tower, classes, context, options.repeats)}
        for name in options.backbone
        for tower in [tower_of(name)]
        for classes in options.classes
        for context in options.context
    ]
    report(
        "forward + backward",
        rows,
        as_json=options.json,
        ratio=min(row["ratio"] for row in rows),
        max_feature_difference=max(row["feature_difference"] for row in rows),
        max_gradient_relative_difference=max(row["gradient_difference"] for row in rows),
    )


def tower_of(name: str) -> TextTower:
    """Return the text tower of that architecture; except for glyph-clip its weights are random."""
    if name == GLYPH_CLIP:
        return load_backbone(BackboneConfig()).tower
    return text_tower_of(open_clip.create_model(name, pretrained=None).eval(), name)


def compare(tower: TextTower, num_classes: int, tokens: int, repeats: int) -> dict[str, Any]:
    names = open_clip.IMAGENET_CLASSNAMES[:num_classes]
    classes = embed_classes(tower, open_clip.tokenize(class_texts(names)))
    context = torch.randn(1, tokens, tower.width) * 0.02
    upstream = torch.randn(1, num_classes, tower.dim)

    def step(encode: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
        leaf = context.clone().requires_grad_()
        features = encode(tower, classes, leaf)
        features.backward(upstream)
        return features.detach(), leaf.grad

    (plain, plain_gradient), (fast, fast_gradient) = step(encode_prompts_plainly), step(encode_prompts)
    plain_s, plain_mib = measure(lambda: step(encode_prompts_plainly), repeats)
    fast_s, fast_mib = measure(lambda: step(encode_prompts), repeats)
    return {
        "classes": num_classes,
        "context": tokens,
        "plain_s": plain_s,
        "fast_s": fast_s,
        "ratio": plain_s / fast_s,
        "plain_peak_mib": plain_mib,
        "fast_peak_mib": fast_mib,
        "feature_difference": float((plain - fast).abs().max()),
        "gradient_difference": float((plain_gradient - fast_gradient).norm() / plain_gradient.norm()),
    }


if __name__ == "__main__":
    main()
