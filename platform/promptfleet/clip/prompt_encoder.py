"""Text features of learnable prompts, computed exactly and without doing anything twice.

A prompt is ``[SOS][context][class tokens].[EOT][padding]``. In a causal tower nothing after EOT can reach EOT, so the
padding is dropped; and nothing of a class can reach ``[SOS][context]``, so that prefix runs once per prompt, its keys
and values are kept per layer, and each class runs only its own few tokens against them. In the last layer only
the EOT token is still needed. ``plain_encoder`` does the same the obvious way and is what this is tested against.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from promptfleet.clip.text_tower import TextTower


@dataclass(frozen=True)
class ClassTokens:
    """Embedded tokens that follow the context, class by class.

    ``start [width]`` is SOS; ``suffix [classes, tokens, width]`` are class name, full stop and EOT, then padding;
    ``lengths [classes]`` counts the tokens up to and including EOT.
    """

    start: Tensor
    suffix: Tensor
    lengths: Tensor

    def __len__(self) -> int:
        return self.suffix.shape[0]

    def to(self, device: torch.device | str) -> "ClassTokens":
        return ClassTokens(self.start.to(device), self.suffix.to(device), self.lengths.to(device))


def encode_prompts(tower: TextTower, classes: ClassTokens, contexts: Tensor) -> Tensor:
    """Return text features ``[prompts, classes, dim]``, unit norm, of ``contexts [prompts, tokens, width]``.

    Gradients flow to ``contexts`` alone. The context must leave room: 1 + tokens + longest suffix <= positions.
    """
    prefix, suffix = _embed(tower, classes, contexts)
    causal = _causal_mask(suffix.shape[-2], suffix.device)
    last = tower.layers - 1
    for layer in range(tower.layers):
        prefix_hidden = tower.norm_before_attention(layer, prefix)
        suffix_hidden = tower.norm_before_attention(layer, suffix)
        prefix_keys, prefix_values = tower.keys(layer, prefix_hidden), tower.values(layer, prefix_hidden)
        suffix_keys, suffix_values = tower.keys(layer, suffix_hidden), tower.values(layer, suffix_hidden)
        if layer == last:
            suffix, suffix_hidden = _end_tokens(classes, suffix), _end_tokens(classes, suffix_hidden)
            causal = causal[classes.lengths - 1][:, None, None, :]
        else:
            prefix = tower.after_attention(
                layer, prefix, _attend_within(tower.queries(layer, prefix_hidden), prefix_keys, prefix_values)
            )
        mixed = _attend_prefix_and_own(
            tower.queries(layer, suffix_hidden), prefix_keys, prefix_values, suffix_keys, suffix_values, causal
        )
        suffix = tower.after_attention(layer, suffix, mixed)
    return tower.project(suffix.squeeze(-2))


def _embed(tower: TextTower, classes: ClassTokens, contexts: Tensor) -> tuple[Tensor, Tensor]:
    """Prefix ``[prompts, 1 + tokens, width]`` and suffix ``[prompts, classes, suffix tokens, width]``."""
    prompts, tokens, _ = contexts.shape
    start, end = 1 + tokens, 1 + tokens + classes.suffix.shape[1]
    if end > tower.positions:
        room = tower.positions - 1 - classes.suffix.shape[1]
        raise ValueError(f"a context of {tokens} tokens is too long: the tower leaves room for {room}")
    positions = tower.weights["positional_embedding"]
    prefix = torch.cat([classes.start.expand(prompts, 1, -1), contexts], dim=1) + positions[:start]
    suffix = (classes.suffix + positions[start:end]).expand(prompts, -1, -1, -1)
    return prefix, suffix


def _causal_mask(tokens: int, device: torch.device) -> Tensor:
    """``[tokens, tokens]``: 0 where a query may look, -inf where the key lies behind it."""
    return torch.full((tokens, tokens), float("-inf"), device=device).triu(1)


def _end_tokens(classes: ClassTokens, x: Tensor) -> Tensor:
    """Keep each class's EOT: ``[prompts, classes, tokens, width] -> [prompts, classes, 1, width]``."""
    index = (classes.lengths - 1).view(1, -1, 1, 1).expand(x.shape[0], -1, 1, x.shape[-1])
    return x.gather(2, index)


def _attend_within(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    scores = queries @ keys.transpose(-1, -2)
    return torch.softmax(scores + _causal_mask(scores.shape[-1], scores.device), dim=-1) @ values


def _attend_prefix_and_own(
    queries: Tensor, prefix_keys: Tensor, prefix_values: Tensor, keys: Tensor, values: Tensor, causal: Tensor
) -> Tensor:
    """Attention of class tokens over the shared prefix (all of it) and over their own class (causally).

    queries, keys, values ``[prompts, classes, heads, tokens, head_dim]``;
    prefix_keys, prefix_values ``[prompts, heads, prefix tokens, head_dim]``.
    """
    classes, query_tokens, prefix_tokens = queries.shape[1], queries.shape[3], prefix_keys.shape[2]
    by_prompt = queries.transpose(1, 2).flatten(2, 3)
    to_prefix = (by_prompt @ prefix_keys.transpose(-1, -2)).unflatten(2, (classes, query_tokens)).transpose(1, 2)
    to_own = queries @ keys.transpose(-1, -2) + causal
    weights = torch.softmax(torch.cat([to_prefix, to_own], dim=-1), dim=-1)
    on_prefix, on_own = weights.split([prefix_tokens, keys.shape[3]], dim=-1)
    from_prefix = on_prefix.transpose(1, 2).flatten(2, 3) @ prefix_values
    return from_prefix.unflatten(2, (classes, query_tokens)).transpose(1, 2) + on_own @ values
