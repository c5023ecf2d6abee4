"""Operations on paper against those that torch counts while it runs the encoder on tensors without memory."""

from itertools import product

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from promptfleet.clip.flops import TOWERS, TowerSize, plain_flops, shared_prefix_flops
from promptfleet.clip.plain_encoder import encode_prompts_plainly
from promptfleet.clip.prompt_encoder import encode_prompts
from promptfleet.clip.prompt_layout import ClassTokens
from promptfleet.clip.text_tower import TextTower, tower_keys
from tests.fakes import tiny_classes, tiny_tower

CLASSES = (10, 100, 397, 1000)


def hollow_tower(size: TowerSize) -> TextTower:
    """A tower of that size whose weights have shapes and nothing else."""
    width = size.width
    shapes = {
        "positional_embedding": (77, width),
        "text_projection": (width, size.dim),
        "in_proj_weight": (3 * width, width),
        "in_proj_bias": (3 * width,),
        "out_proj.weight": (width, width),
        "c_fc.weight": (4 * width, width),
        "c_fc.bias": (4 * width,),
        "c_proj.weight": (width, 4 * width),
    }

    def weight(key: str) -> torch.Tensor:
        shape = next((shape for name, shape in shapes.items() if key.endswith(name)), (width,))
        return torch.empty(shape, device="meta")

    keys = [key for key in tower_keys(size.layers) if key != "token_embedding.weight"]
    return TextTower({key: weight(key) for key in keys}, size.layers, heads=8, quick_gelu=True)


def lengths_of(classes: int) -> list[int]:
    """Two to five tokens of a name, with full stop and EOT."""
    return [4 + label % 4 for label in range(classes)]


def counted(encode, tower: TextTower, classes: ClassTokens, contexts: torch.Tensor) -> tuple[int, int]:
    """Operations of a forward and of a backward pass."""
    contexts.requires_grad_()
    with FlopCounterMode(display=False) as forward:
        features = encode(tower, classes, contexts)
    with FlopCounterMode(display=False) as backward:
        features.backward(torch.empty_like(features))
    return forward.get_total_flops(), backward.get_total_flops()


@pytest.mark.parametrize("backbone", ["ViT-B-16", "ViT-L-14"])
@pytest.mark.parametrize(("layers", "shapes"), [(2, list(product(CLASSES, (1, 16)))), (12, [(100, 16)])])
def test_the_encoder_does_what_was_counted_on_paper(backbone, layers, shapes):
    size = TOWERS[backbone]._replace(layers=layers)
    tower = hollow_tower(size)
    for number, prompts in shapes:
        lengths = lengths_of(number)
        suffix = torch.empty(number, max(lengths), size.width, device="meta")
        classes = ClassTokens(torch.empty(size.width, device="meta"), suffix, torch.tensor(lengths))
        contexts = torch.empty(prompts, 16, size.width, device="meta")
        paper = shared_prefix_flops(size, lengths, 16, prompts)
        assert counted(encode_prompts, tower, classes, contexts) == (paper.forward, paper.backward)


def test_so_does_the_plain_one():
    tower = tiny_tower()
    classes = tiny_classes(tower)
    paper = plain_flops(TowerSize.of(tower), len(classes), prompts=2)
    forward, _ = counted(encode_prompts_plainly, tower, classes, torch.zeros(2, 3, tower.width))
    assert forward in (paper.linear, paper.forward)  # torch does not count every kernel of attention on a CPU


def test_a_hundred_classes_take_a_twentieth_of_77_tokens():
    size = TOWERS["ViT-B-16"]
    shared, plain = shared_prefix_flops(size, [4] * 100, 16), plain_flops(size, 100)
    assert 19 < plain.step / shared.step < 21
    assert 60e9 < shared.step < 62e9
