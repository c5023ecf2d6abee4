"""A local round of pFedMoAP against the published way of computing it: python benchmarks/round.py

Both train one client's prompt and gate on the same images with the same open_clip model (random weights) in float32.
The published pattern encodes the images with the image encoder at every step, every class as a row of 77 tokens, and
the texts of all K non-local experts again for every client and round. Here features come from the store and an
expert's texts from its owner. Both must arrive at the same prompt.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from measuring import report
from promptfleet.clip.backbone import GLYPH_CLIP, load_backbone
from promptfleet.clip.frozen import FrozenClip
from promptfleet.clip.plain_encoder import encode_prompts_plainly
from promptfleet.clip.text_tower import text_tower_of
from promptfleet.clip.tokens import class_texts, embed_classes
from promptfleet.config import BackboneConfig
from promptfleet.methods.parts.gates import init_gate
from promptfleet.methods.parts.prompts import encode_frozen, init_context
from promptfleet.methods.parts.side_by_side import run_alone
from promptfleet.methods.parts.states import to_device
from promptfleet.methods.pfedmoap import PFedMoAP, PFedMoAPConfig, gate_of
from promptfleet.methods.protocol import Examples, Images, Message, Task, World

ResultT = TypeVar("ResultT")


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="ViT-B-16", help="open_clip's name, with random weights; or glyph-clip")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--classes", type=int, nargs="+", default=(10, 100))
    parser.add_argument("--context", type=int, default=16, help="learnable tokens")
    parser.add_argument("--experts", type=int, default=9, help="K, non-local ones")
    parser.add_argument("--images", type=int, default=32, help="of the client")
    parser.add_argument("--epochs", type=int, default=5, help="local ones")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(arguments)


def model_of(options: argparse.Namespace) -> nn.Module:
    """Return the frozen open_clip model of the options, on their device."""
    torch.manual_seed(0)
    if options.backbone == GLYPH_CLIP:
        model = load_backbone(BackboneConfig()).model
    else:
        model = open_clip.create_model(options.backbone, pretrained=None).eval().requires_grad_(False)
    return model.to(options.device)


def main() -> None:
    options = options_of()
    torch.set_num_threads(options.threads)
    model = model_of(options)
    rows = [compare(model, classes, options) for classes in options.classes]
    report(
        f"one local round, {options.backbone}",
        rows,
        as_json=options.json,
        ratio=min(row["ratio"] for row in rows),
        max_prompt_difference=max(row["prompt_difference"] for row in rows),
    )


def compare(model: nn.Module, classes: int, options: argparse.Namespace) -> dict[str, Any]:
    device = options.device
    world = world_of(model, classes, options)
    rng = np.random.default_rng(0)
    size = model.visual.image_size
    images = torch.randn(options.images, 3, *(size if isinstance(size, tuple) else (size, size))).to(device)
    labels = (torch.arange(options.images) % classes).to(device)
    start, *experts = (init_context(world, rng).to(device) for _ in range(1 + options.experts))
    experts = torch.stack(experts)
    gate = {name: tensor.to(device) for name, tensor in init_gate(gate_of(world.config), rng).items()}
    expert_text = torch.stack([encode_frozen(world, expert) for expert in experts])  # by their owners, in their rounds

    def published() -> Tensor:
        return published_round(model, world, images, labels, start, experts, gate)

    def ours(features: Tensor) -> Tensor:
        return our_round(world, Examples(Images(features), labels), start, experts, expert_text, gate)

    published_context, published_s = timed(published, device)
    features, store_s = timed(lambda: model.encode_image(images, normalize=True), device)
    our_context, ours_s = timed(lambda: ours(features), device)
    return {
        "classes": classes,
        "published_s": published_s,
        "ours_s": ours_s,
        "ratio": published_s / ours_s,
        "encoding_the_images_once_s": store_s,
        "rounds_that_pay_it_back": store_s / (published_s - ours_s),
        "prompt_difference": float((our_context - published_context).abs().max()),
        "prompt_change": float((our_context - start).abs().max()),
    }


def timed(work: Callable[[], ResultT], device: str) -> tuple[ResultT, float]:
    """Return the result of ``work`` and its seconds; on a card those of a second run: the first loads libraries."""
    if device != "cpu":
        work()
        torch.cuda.synchronize()
    started = time.perf_counter()
    result = work()
    if device != "cpu":
        torch.cuda.synchronize()
    return result, time.perf_counter() - started


def world_of(model: nn.Module, classes: int, options: argparse.Namespace) -> World:
    names = open_clip.IMAGENET_CLASSNAMES[:classes]
    tower = text_tower_of(model, options.backbone)
    tokens = embed_classes(tower, open_clip.tokenize(class_texts(names)))
    clip = FrozenClip(tower, tokens, torch.zeros(classes, tower.dim), float(model.logit_scale.exp()))
    config = PFedMoAPConfig(
        clients=options.experts + 1,
        experts=options.experts,
        prompt_length=options.context,
        gate_width=128,
        local_epochs=options.epochs,
        prompt_lr=1.0,  # random weights give small gradients: a difference must be able to show
        gate_lr=0.01,
        shuffle=False,
    )
    return World(config, clip.to(options.device), tuple(names))


def our_round(
    world: World, examples: Examples, start: Tensor, experts: Tensor, expert_text: Tensor, gate: dict[str, Tensor]
) -> Tensor:
    """Return the prompt after one local round, by the library."""
    method, rng = PFedMoAP(), np.random.default_rng(0)
    private = to_device(method.init_client(world, 0, rng), start.device)
    private |= gate
    download = Message({"context": start, "experts": experts}, {"expert_text": expert_text})
    task = Task(world, client=0, round=1, private=private, download=download, train=examples, val=examples, rng=rng)
    update = run_alone(world, method.local_update(task))
    return update.upload.tensors["context"]


def published_round(
    model: nn.Module,
    world: World,
    images: Tensor,
    labels: Tensor,
    start: Tensor,
    experts: Tensor,
    gate: dict[str, Tensor],
) -> Tensor:
    """Return the prompt after one local round, computed as the published implementation does."""
    config, clip = world.config, world.clip
    with torch.no_grad():
        expert_text = encode_prompts_plainly(clip.tower, clip.classes, experts)
    context = start.clone().requires_grad_()
    gate = {name: tensor.clone().requires_grad_() for name, tensor in gate.items()}
    rates = {"momentum": config.momentum, "weight_decay": config.weight_decay}
    optimizers = [
        torch.optim.SGD([context], lr=config.prompt_lr, **rates),
        torch.optim.SGD(gate.values(), lr=config.gate_lr, **rates),
    ]
    for _ in range(config.local_epochs):
        for batch, batch_labels in zip(images.split(config.batch_size), labels.split(config.batch_size), strict=True):
            with torch.no_grad():
                features = model.encode_image(batch, normalize=True)
            (text,) = encode_prompts_plainly(clip.tower, clip.classes, context.unsqueeze(0))
            mixed = gate_of(config).scores(gate, features, torch.cat([text.unsqueeze(0), expert_text]))
            loss = F.cross_entropy(clip.logit_scale * (mixed + config.lambda_ * features @ text.T), batch_labels)
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
    return context.detach()


if __name__ == "__main__":
    main()
