"""The obvious text encoder: every class as a full row of 77 tokens. Slow, and the truth for the fast one."""

import torch
from torch import Tensor

from promptfleet.clip.prompt_encoder import ClassTokens
from promptfleet.clip.text_tower import TextTower


def encode_texts(tower: TextTower, token_ids: Tensor) -> Tensor:
    """Text features ``[texts, dim]``, unit norm, of ``token_ids [texts, positions]`` that end in EOT and zeros.

    EOT is the highest id of CLIP's vocabulary, so its place is the row's maximum.
    """
    embedded = tower.weights["token_embedding.weight"][token_ids]
    return _encode(tower, embedded, token_ids.argmax(dim=-1))


def encode_prompts_plainly(tower: TextTower, classes: ClassTokens, contexts: Tensor) -> Tensor:
    """What ``prompt_encoder.encode_prompts`` returns, from prompts padded to all positions."""
    return torch.stack([_encode_prompt(tower, classes, context) for context in contexts])


def _encode_prompt(tower: TextTower, classes: ClassTokens, context: Tensor) -> Tensor:
    count, suffix_tokens, width = classes.suffix.shape
    padding = tower.positions - 1 - context.shape[0] - suffix_tokens
    rows = torch.cat(
        [
            classes.start.expand(count, 1, width),
            context.expand(count, -1, width),
            classes.suffix,
            context.new_zeros(count, padding, width),
        ],
        dim=1,
    )
    return _encode(tower, rows, context.shape[0] + classes.lengths)


def _encode(tower: TextTower, embedded: Tensor, end: Tensor) -> Tensor:
    x = embedded + tower.weights["positional_embedding"]
    mask = torch.full((tower.positions, tower.positions), float("-inf"), device=x.device).triu(1)
    for layer in range(tower.layers):
        hidden = tower.norm_before_attention(layer, x)
        scores = tower.queries(layer, hidden) @ tower.keys(layer, hidden).transpose(-1, -2) + mask
        x = tower.after_attention(layer, x, torch.softmax(scores, dim=-1) @ tower.values(layer, hidden))
    return tower.project(x[torch.arange(len(x), device=x.device), end])
