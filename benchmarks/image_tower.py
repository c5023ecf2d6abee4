"""Speed of methods that train through the image tower, on handwritten digits: python benchmarks/image_tower.py

A local update of all clients side by side is compared with open_clip's own image tower on the same batches, one after
another, without anything else: forward and backward to the pixels where the method trains through the tower, forward
alone where it does not, for pFedPT's features of the second phase and SGPT's queries. Images are decoded before. Both
take turns, and the fastest of each counts, in the processor's seconds.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from measuring import report
from promptfleet.clip.backbone import load_backbone
from promptfleet.config import FederationConfig
from promptfleet.data.samples import Samples
from promptfleet.features.pixels import pixel_reader
from promptfleet.federation.client_group import ClientGroup
from promptfleet.federation.evaluation.shared_sets import SharedParts
from promptfleet.federation.partitioning import partition_for
from promptfleet.federation.prepare import prepare
from promptfleet.federation.server import Server
from promptfleet.federation.settings import read_federation_config
from promptfleet.methods import load_method


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=["pfedpt", "sgpt"], default=["pfedpt", "sgpt"])
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="more keys of the federation")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as storage:
        same = [f"clients={options.clients}", f"storage.path={storage}", *options.set]
        for name in options.methods:
            rows.append(measure(read_federation_config(None, [*same, f"method={name}"]), options.repeats))
    report("local updates against the bare image tower", rows, as_json=options.json, clients=options.clients)


def measure(config: FederationConfig, repeats: int) -> dict[str, Any]:
    prepared = prepare(config)
    world, store = prepared.world(config), prepared.open_store()
    samples = Samples.of_store(store, prepared.class_names, prepared.domain_names)
    partition = partition_for(config, samples)
    group = ClientGroup(world, store, dict(enumerate(partition.clients)), SharedParts.of(partition))
    downloads = Server(load_method(config.method), world).select(1, range(config.clients))
    privates = group.initial_states(range(config.clients))
    trained, forward = passes(config)
    read = pixel_reader(world, store.labels)
    batches = [
        read(split.train[start : start + config.batch_size])
        for split in partition.clients
        for start in range(0, len(split.train), config.batch_size)
    ]
    encode = load_backbone(config.backbone, config.seed).model.encode_image

    def update() -> None:
        group.train(1, privates, downloads)

    def bare() -> None:
        for _ in range(trained):
            forward_and_backward(encode, batches)
        for _ in range(forward):
            with torch.no_grad():
                for pixels in batches:
                    encode(pixels, normalize=True)

    update()
    times = [(cpu_seconds(update), cpu_seconds(bare)) for _ in range(repeats)]
    method_s, bare_s = (min(column) for column in zip(*times, strict=True))
    images = sum(map(len, batches)) * trained
    return {
        "method": config.method,
        "images_trained_on": images,
        "update_s": method_s,
        "bare_tower_s": bare_s,
        "images_per_s": images / method_s,
        "share_of_the_bare_towers_speed": bare_s / method_s,
    }


def passes(config: FederationConfig) -> tuple[int, int]:
    """Return how often a local update goes through each image with and without gradients."""
    if config.method == "pfedpt":
        return config.frame_epochs, 1
    return 2 * config.local_epochs, 1


def forward_and_backward(encode: Callable[..., Tensor], batches: Sequence[Tensor]) -> None:
    for pixels in batches:
        leaf = pixels.clone().requires_grad_()
        encode(leaf, normalize=True)[:, 0].sum().backward()


def cpu_seconds(work: Callable[[], None]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


if __name__ == "__main__":
    main()
