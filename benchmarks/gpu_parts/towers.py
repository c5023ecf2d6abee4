"""Text towers of CLIP's shapes with random weights, and classes for them: no open_clip, no tokenizer, no download."""

import torch
from torch import Tensor

from promptfleet.clip.prompt_layout import ClassTokens
from promptfleet.clip.text_tower import TextTower, tower_keys

SHAPES = {  # width, layers, heads, dim of open_clip's architectures
    "ViT-B-16": (512, 12, 8, 512),
    "ViT-L-14": (768, 12, 12, 768),
    "tiny": (64, 2, 2, 64),
}
POSITIONS, MLP_RATIO = 77, 4
NAME_TOKENS = (1, 4)  # of a class name, from and to; ImageNet's names have 2.6 on average


def random_tower(name: str, device: torch.device) -> TextTower:
    """Return the text tower of the architecture ``name``, without a token table."""
    width, layers, heads, dim = SHAPES[name]
    drawn = torch.Generator().manual_seed(0)
    shapes = {
        "positional_embedding": (POSITIONS, width),
        "text_projection": (width, dim),
        "in_proj_weight": (3 * width, width),
        "out_proj.weight": (width, width),
        "c_fc.weight": (MLP_RATIO * width, width),
        "c_proj.weight": (width, MLP_RATIO * width),
        "in_proj_bias": (3 * width,),
        "c_fc.bias": (MLP_RATIO * width,),
    }

    def weight(key: str) -> Tensor:
        shape = next((shape for end, shape in shapes.items() if key.endswith(end)), (width,))
        if key.endswith(("ln_1.weight", "ln_2.weight", "ln_final.weight")):
            return torch.ones(shape)
        if key.endswith("bias"):
            return torch.zeros(shape)
        return torch.randn(shape, generator=drawn) * width**-0.5

    keys = [key for key in tower_keys(layers) if key != "token_embedding.weight"]
    return TextTower({key: weight(key).to(device) for key in keys}, layers, heads, quick_gelu=True)


def random_classes(tower: TextTower, classes: int, device: torch.device) -> ClassTokens:
    """Return class names of one to four random tokens, each with its full stop and end of text."""
    drawn = torch.Generator().manual_seed(1)
    lengths = torch.randint(NAME_TOKENS[0], NAME_TOKENS[1] + 1, (classes,), generator=drawn) + 2
    suffix = torch.randn(classes, int(lengths.max()), tower.width, generator=drawn) * 0.02
    return ClassTokens(torch.randn(tower.width, generator=drawn) * 0.02, suffix, lengths).to(device)
