"""Encoding images into a feature store against bare forward passes on tensors: python benchmarks/encode.py

Random weights. By default the two photographs that scikit-learn ships (JPEG, 640 x 427), over and over; or a dataset of
yours: --dataset caltech101 --root data.
"""

import argparse
import hashlib
import tempfile
import time
from functools import partial
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from measuring import report
from promptfleet.clip.backbone import GLYPH_CLIP, Backbone, load_backbone
from promptfleet.config import BackboneConfig, FeaturesConfig
from promptfleet.data.dataset import Dataset
from promptfleet.data.datasets import load_dataset
from promptfleet.features.encoding import PART, encode_missing, wanted_files
from promptfleet.features.image_encoder import BATCH, encode_in_threads
from promptfleet.federation.settings import federation_config
from promptfleet.methods.protocol import Needs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", nargs="+", default=["ViT-B-32"], help="open_clip's names, or glyph-clip")
    parser.add_argument("--dataset", help="instead of scikit-learn's photographs")
    parser.add_argument("--root", default="data")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dataset = photographs() if options.dataset is None else load_dataset(options.dataset, options.root)
    dataset = spread_out(dataset, options.images)
    rows = [compare(name, dataset, options.repeats, options.threads, options.device) for name in options.backbone]
    report("encoding images", rows, as_json=options.json, ratio=min(row["ratio"] for row in rows))


def photographs() -> Dataset:
    paths = [Path(str(files("sklearn.datasets.images") / name)) for name in ("china.jpg", "flower.jpg")]
    content = hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()
    labels = np.arange(len(paths))
    return Dataset("photographs", ("temple", "flower"), labels, lambda index: Image.open(paths[index]), (), content)


def spread_out(dataset: Dataset, images: int) -> Dataset:
    """Return ``images`` of the dataset's images, evenly; repeatedly if it has fewer."""
    chosen = np.linspace(0, max(images, len(dataset)), images, endpoint=False).astype(int) % len(dataset)

    def read_image(index: int) -> Image.Image:
        return dataset.read_image(int(chosen[index]))

    return Dataset(
        dataset.name, dataset.class_names, dataset.labels[chosen], read_image, dataset.templates, dataset.fingerprint
    )


def compare(name: str, dataset: Dataset, repeats: int, threads: int, device: str) -> dict[str, str | float]:
    """Return images per second, the fastest of ``repeats`` runs that take turns."""
    weights = {} if name == GLYPH_CLIP else {"pretrained": "random"}
    backbone = load_backbone(BackboneConfig(name=name, **weights))
    backbone.model.to(device)
    pixels = [backbone.transform(dataset.read_image(index)) for index in range(min(PART, len(dataset)))]
    pixels = torch.stack(pixels).to(device)
    parts = [range(start, min(start + PART, len(dataset))) for start in range(0, len(dataset), PART)]
    runs = {
        "shared_pass": partial(forward, backbone, pixels, parts),
        "passes_side_by_side": lambda: list(encode_in_threads(partial(forward_part, backbone, pixels), parts, threads)),
        "pipeline": partial(encode, backbone, dataset, device),
    }
    for run in runs.values():
        run()
    seconds = {kind: [] for kind in runs}
    for _ in range(repeats):
        for kind, run in runs.items():
            started = time.perf_counter()
            run()
            if device != "cpu":
                torch.cuda.synchronize()
            seconds[kind].append(time.perf_counter() - started)
    speed = {kind: len(dataset) / min(times) for kind, times in seconds.items()}
    ratio = speed["pipeline"] / max(speed["shared_pass"], speed["passes_side_by_side"])
    figures = {f"{kind}_images_per_s": value for kind, value in speed.items()}
    return {"backbone": name, "images": len(dataset), "threads": threads, **figures, "ratio": ratio}


@torch.inference_mode()
def forward_part(backbone: Backbone, pixels: torch.Tensor, part: range) -> dict:
    """Run the bare forward passes of one part, on tensors that are in memory."""
    for start in range(0, len(part), BATCH):
        backbone.model.encode_image(pixels[start : start + min(BATCH, len(part) - start)], normalize=True)
    return {}


def forward(backbone: Backbone, pixels: torch.Tensor, parts: list[range]) -> None:
    """Run one forward pass after the other, each with all threads."""
    for part in parts:
        forward_part(backbone, pixels, part)


def encode(backbone: Backbone, dataset: Dataset, device: str) -> None:
    """Encode image files into a finished store."""
    config = federation_config({"runtime": {"device": device}})
    with tempfile.TemporaryDirectory() as folder:
        wanted = wanted_files(backbone, dataset, FeaturesConfig(), Needs.GLOBAL, Path(folder))
        encode_missing(config, backbone, dataset, wanted)


if __name__ == "__main__":
    main()
